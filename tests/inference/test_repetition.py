import pytest

from asr.inference.repetition import longest_repetition, repeats_itself


@pytest.mark.parametrize(
    "text",
    [
        "THAT THAT THAT THAT THAT",
        "AND THEN AND THEN AND THEN AND THEN HE WENT",
        "I SAY " + "WHAT IS THE MATTER " * 3,
        "HE WENT TO THE " + "BANANANANA" * 12,
        "он пошёл " + "налевоналево" * 12,
        "他去了" + "北京上海" * 25,
    ],
)
def test_a_loop_is_noticed(text: str) -> None:
    assert repeats_itself(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NO NO NO NO SAID THE LADY",
        "VERY WELL VERY WELL SAID HE VERY WELL",
        "THE CAT SAT ON THE MAT AND THE DOG SAT ON THE LOG AND THE MAN SAT ON THE PAN",
        "FROM THE FIRST DAY TO THE LAST DAY AND FROM THE LAST DAY TO THE FIRST NIGHT",
        "A MAN SAID TO THE UNIVERSE SIR I EXIST HOWEVER REPLIED THE UNIVERSE THE FACT "
        "HAS NOT CREATED IN ME A SENSE OF OBLIGATION",
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता "
        "प्राप्त है उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के "
        "भाव से बर्ताव करना चाहिए प्रत्येक व्यक्ति को जीवन स्वाधीनता और वैयक्तिक सुरक्षा "
        "का अधिकार है",
        "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม "
        "และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ คนทุกคนมีสิทธิในการดำรงชีวิต เสรีภาพ "
        "และความมั่นคงแห่งตัวตน บุคคลใดจะถูกบังคับให้เป็นทาสหรืออยู่ในภาระจำยอมใดๆ มิได้",
        "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით "
        "მათ მინიჭებული აქვთ გონება და სინდისი და ერთმანეთის მიმართ უნდა იქცეოდნენ "
        "ძმობის სულისკვეთებით",
    ],
)
def test_speech_is_no_loop(text: str) -> None:
    assert not repeats_itself(text)


@pytest.mark.parametrize(
    ("text", "times", "words"),
    [
        ("", 0, ""),
        ("A B A B", 2, "A B"),
        ("A A A A", 4, "A"),
        ("X A B C A B C A B", 2, "A B C"),
        ("A B C D E F G A B C D E F G", 1, "A"),  # seven words are no stretch
    ],
)
def test_the_longest_repetition(text: str, times: int, words: str) -> None:
    assert longest_repetition(text) == (times, words)
