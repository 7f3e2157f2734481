"""Records become one offline HTML file, for a run or for the demo.  No torch, no network, no script."""

from residual.report.demo import write_demo
from residual.report.run import write

__all__ = ["write", "write_demo"]
