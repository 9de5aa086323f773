"""Small real apps, which servers in the tests run: a module a framework.

Each serves the same, somewhere; `TARGETS` of each module says which and where, and that of
`targets` has all. A server imports only the module of its own framework.
"""
