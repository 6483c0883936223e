"""A made-up corpus that is learned in a minute."""
