"""The laboratory in a browser: ``headlab view``.  A local web application over one store.

    guard    who may ask: loopback, token, Host, Origin, CSRF; what every answer forbids the browser
    app      pages and answers
    runs     the store as tables
    worker   the one thread in which models run
    asked    what a bench is opened with
    benches  the benches that are open, and what their pages ask
    bench    a model and prompts on the table: grids, patterns, live edits
    looks    how much was looked at before a claim is tried
    drafts   the claim that fills itself while one looks, and its trial

It binds to loopback only.  Nothing is written but by *Register and try*, and then into the store.
"""

from headlab.view.app import make_app, serve

__all__ = ["make_app", "serve"]
