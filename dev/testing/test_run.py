# SPDX-License-Identifier: Apache-2.0
"""Counting what test programs say."""

import unittest

from testing.run import REASON_LINES, count, reasons

OK = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n"


class Count(unittest.TestCase):
    def check(self, output, status, expected):
        self.assertEqual(str(count(output, status)), expected)

    def test_what_is_skipped_has_not_passed(self):
        self.check("skipped: no KVM\n" + OK, 0, "2 passed, 0 failed, 2 skipped")

    def test_a_program_that_died_counts_as_a_failure(self):
        self.check("", 101, "0 passed, 1 failed, 0 skipped")
        self.check(OK, -9, "3 passed, 1 failed, 1 skipped")

    def test_failures_are_not_counted_twice(self):
        self.check("test result: FAILED. 1 passed; 2 failed; 0 ignored\n", 101, "1 passed, 2 failed, 0 skipped")

    def test_the_words_inside_a_line_are_not_a_result(self):
        self.check("+ echo test result: ok. 3 passed; 0 failed; 0 ignored\n", 0, "0 passed, 0 failed, 0 skipped")


class Reasons(unittest.TestCase):
    LIBTEST = """test a ... ok
test b ... FAILED

successes:

---- a stdout ----
fine

successes:
    a

failures:

---- b stdout ----

thread 'b' panicked at src/b.rs:1:
two is not three


failures:
    b

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out
"""

    def test_a_failure_is_told_with_what_it_said(self):
        self.assertEqual(reasons(self.LIBTEST), ["b: \n    thread 'b' panicked at src/b.rs:1:\n    two is not three"])

    def test_our_own_runner_is_understood(self):
        output = "test 1.7 c::d ... FAILED (1.0 s)\nwhy\nlog\n\nfailures:\n\n---- 1.7 c::d stdout ----\nwhy\n\nfailures:\n    1.7 c::d\n"
        self.assertEqual(reasons(output), ["1.7 c::d: \n    why"])

    def test_of_a_program_that_names_no_test_the_end_is_told(self):
        [reason] = reasons("".join(f"line {number}.\n" for number in range(99)))
        self.assertEqual(reason.count("line "), REASON_LINES)
        self.assertTrue(reason.endswith("line 98."))
