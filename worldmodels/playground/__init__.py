"""The playground: a page that drives inside M, in any browser; everything that computes runs in the page.

`weights` folds V, M and C into the matrices the page multiplies, `starts` finds real moments to dream on from, `site`
puts both beside the page's own files (`static/`), and `server` shows the result on this machine. `graphs` writes the
networks as ONNX for other tools. Nothing here trains.
"""
