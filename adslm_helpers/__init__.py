"""Helpers behind the notebooks: from an ad team's data to a small Japanese model tuned by DPO.

Importing this package, or any module of it, prints nothing, configures nothing and loads no heavy library.
"""

__version__ = "0.1.0"
