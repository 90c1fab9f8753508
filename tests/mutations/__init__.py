"""Every protection, taken away once: the tests that are named beside it must then fail, or they have never tested it.

`table.py` says what an entry is, and each `point_*.py` holds the entries of one point of the page on reliability. `removal.py` copies the
repository to a temporary folder, changes one text in it, and runs the named tests there; the checkout is never touched. `make protections`
does it for all entries (`ONLY=6` for a point, `ONLY="redirect"` for the entries whose sentence has that word) and writes
`docs/mutations.md`. `test_protections.py` makes sure every day that the texts and the tests are still there.

To add an entry, append to the tuple of its point:

    Protection(
        "What else lies in the folder is left alone.",                     # one sentence; it stands in the page
        "shared/jobs/delivery/outbox.py",                                           # the file that protects
        " if _NAME.fullmatch(path.name)]",                                 # occurs exactly once in it
        "]",                                                               # what stands there when the protection is gone
        ("tests/shared/jobs/delivery/test_outbox.py::test_what_else_lies_there_is_left_alone",),  # all of these must fail
    )

The rest of the file must still be Python. A test must fail by an assertion (`pytest.raises` that sees nothing is one); where it fails by an
exception that the product lets through, the entry names it: `shows="ZeroDivisionError"`.
"""
