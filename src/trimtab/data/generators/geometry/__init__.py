"""Questions about relations of lines, points, angles and shapes, with labels that are computed and not written.

Source: GeomRel (arXiv:2501.13773) for relations, groups and the form of a row. Its files carry no licence; all texts,
scenes and labels here are made independently and are free of rights (CC0).
"""
