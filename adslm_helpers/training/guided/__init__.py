"""Preference-guided DPO: plain DPO and a pull towards the margins of a teacher that reads an instruction before it answers."""
