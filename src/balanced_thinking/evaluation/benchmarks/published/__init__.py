"""Published benchmarks, read from the user's copy or the Hugging Face hub: one module each, and one line here.

    scienceqa-img                      from the hub
    scienceqa-img=/data/ScienceQA      from a folder in the published layout, or a file of it
    scienceqa-img:val=/data/ScienceQA  another split

Question texts are those of lmms-eval without their direct-answer suffix, since the answer follows a trace here;
snapshot tests freeze them. No data of theirs is in this package, and none was at hand: layouts follow the published
files as documented, and the hub was not reached by us.
"""

from types import MappingProxyType

from balanced_thinking.evaluation.benchmarks.published import (
    ai2d,
    aokvqa,
    chartqa,
    iconqa,
    m3cot,
    mathvista,
    mmmu,
    scienceqa,
)
from balanced_thinking.evaluation.benchmarks.published.reading import Published

PUBLISHED: MappingProxyType[str, Published] = MappingProxyType(
    {
        "scienceqa": scienceqa.ALL,
        "scienceqa-img": scienceqa.WITH_PICTURE,
        "iconqa": iconqa.BENCHMARK,
        "ai2d": ai2d.BENCHMARK,
        "chartqa": chartqa.BENCHMARK,
        "mathvista": mathvista.BENCHMARK,
        "mmmu": mmmu.BENCHMARK,
        "m3cot": m3cot.BENCHMARK,
        "a-okvqa": aokvqa.CHOICES,
        "a-okvqa-direct": aokvqa.DIRECT,
    }
)
