# SPDX-License-Identifier: Apache-2.0
"""Counting what test programs say."""

import unittest

from testing.run import count

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
