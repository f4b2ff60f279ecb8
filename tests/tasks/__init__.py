"""Tests; a package, so that files of the same name may stand in several rooms."""
