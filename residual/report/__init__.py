"""Records become one offline HTML file, for a run, the demo or a reproduction.  No torch, no network, no script."""

from residual.report.demo import write_demo
from residual.report.reproduction import write_reproduction
from residual.report.run import write

__all__ = ["write", "write_demo", "write_reproduction"]
