"""What may this become? P of all words that begin like this, after the words before.

A hypothesis is in the middle of a word w, at node v of the trie. What it will have to
pay for w once it is complete is not known, but

    m(v | h) = sum of P(w | h) over all words w below v

is what its luckiest fellows share, and to charge it while the word is spelled makes a
beam keep the right ones. The unigram alone knows nothing of h. An adaptive softmax
gives P(w | h) of its head, the most frequent words, and of its other clusters as a
whole, each time it is asked for one word; within a cluster the unigram has to do:

    m(v | h) = (1 - share) m(v) + share (sum_{w below v, in the head} P(w | h)
                                         + sum_i P(cluster i | h) m_i(v) / m_i(root))

with m_i the summed unigram probability of cluster i's words. In alphabetical order the
words below a node stand together, so that the sum over the head is the difference of
two cumulative sums. What is charged too much or too little is settled at the end of the
word, so a score of a sentence does not hang on it, only the way to it.

Shapes: R hypotheses, W words, M nodes of the trie, C clusters behind the head.

Source: Ortmanns, Eiden, Ney and Coenen (1997), "Look-ahead techniques for fast beam
search", ICASSP.
"""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class LookAhead:
    """What is known of the words below each node before any context is.

    Args:
        first: (M,) the first word below each node.
        behind: (M,) the first word behind those; the same where there is none.
        unigrams: (W,) P of each word.
        ranks: (W,) of each word in the adaptive softmax.
        edges: (C,) ranks at which its clusters begin.
        share: of the adaptive softmax in the mixture.
    """

    def __init__(
        self,
        first: Ints,
        behind: Ints,
        unigrams: Floats,
        ranks: Ints,
        edges: list[int],
        share: float,
    ) -> None:
        cluster = np.searchsorted(edges, ranks, side="right")  # 0 is the head
        in_head = np.concatenate([[0], np.cumsum(cluster == 0)])
        self.first, self.behind = in_head[first], in_head[behind]
        self.share = share
        self.others = np.empty((len(first), len(edges)), dtype=np.float32)
        for i in range(len(edges)):
            sums = np.cumsum(np.where(cluster == i + 1, unigrams, 0.0))
            sums = np.concatenate([[0.0], sums])
            self.others[:, i] = (sums[behind] - sums[first]) / max(sums[-1], 1e-30)

    def mass(
        self,
        nodes: Ints,
        plain: Floats,
        rows: Ints,
        head: npt.NDArray[np.float32],
        clusters: npt.NDArray[np.float32],
    ) -> Floats:
        """Return (R, L) m(v | h).

        Args:
            nodes: (R, L) v, some of each hypothesis.
            plain: (R, L) m(v).
            rows: (R,) which context, of those that follow, each hypothesis has.
            head: (P, 1 + words of the head) sums of P(w | h) over the first so many of
                the head's words, in alphabetical order.
            clusters: (P, C) P(cluster | h).
        """
        rows = rows[:, None]
        found = head[rows, self.behind[nodes]]
        found -= head[rows, self.first[nodes]]
        found += (self.others[nodes] @ clusters[rows[:, 0], :, None])[:, :, 0]
        found = np.maximum(found, 0.0)  # a difference of sums may be rounded below
        mixed: Floats = (1 - self.share) * plain + self.share * found
        return mixed
