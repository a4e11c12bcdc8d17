"""Text as rows of tokens: `load(documents)` prepares a `Text` once and memory-maps it from then on.

The documents come from `corpora` or `problems`, or are your own. Needs the package tokenizers.
"""

from nn.data.text.corpora import library
from nn.data.text.documents import Document, Problem, apart
from nn.data.text.load import Text, load
from nn.data.text.problems import from_csv, human_eval
from nn.data.text.tokenizer import Tokenizer

__all__ = [
    "Document",
    "Problem",
    "Text",
    "Tokenizer",
    "apart",
    "from_csv",
    "human_eval",
    "library",
    "load",
]
