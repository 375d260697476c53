"""What this machine is and can do: device and precision with the reason, installed packages, Colab."""
