"""Loops on TRL; all of TRL that trimtab touches sits in this folder."""
