"""The root of Colab's errors; userdata.NotebookAccessError stands outside it."""


class Error(Exception):
    pass


class AuthorizationError(Error):
    pass
