"""What a project's tests import, and the judge behind them."""
