"""What the browser answers with when it says no."""

from google.colab import errors


class MessageError(errors.Error):
    pass
