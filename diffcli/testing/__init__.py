"""The conformance kit: the laws that every plugin keeps, for pytest and for `diffcli plugins check`.

from diffcli.testing import MethodSuite

class TestMine(MethodSuite):
    name = "mymethod"
"""

from diffcli.testing.check import Verdict, check
from diffcli.testing.dataset import DatasetSuite
from diffcli.testing.denoiser import DenoiserSuite
from diffcli.testing.extractor import ExtractorSuite
from diffcli.testing.logger import LoggerSuite
from diffcli.testing.method import MethodSuite
from diffcli.testing.model import ModelSuite
from diffcli.testing.plugin import PluginSuite
from diffcli.testing.sampler import SamplerSuite
from diffcli.testing.schedule import ScheduleSuite
from diffcli.testing.suite import Suite

__all__ = [
    "DatasetSuite",
    "DenoiserSuite",
    "ExtractorSuite",
    "LoggerSuite",
    "MethodSuite",
    "ModelSuite",
    "PluginSuite",
    "SamplerSuite",
    "ScheduleSuite",
    "Suite",
    "Verdict",
    "check",
]
