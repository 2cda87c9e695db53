# SPDX-License-Identifier: Apache-2.0
"""Runs the tests, each level where it can run.

    plan      which test programs there are, and the level of each
    run       runs programs, shows what they say, counts
    machines  gives what needs KVM to machines that have it

The level of a test is in its name: an integration test `vm` or `vm_*` needs KVM and root, `e2e` or
`e2e_*` also needs containerd; every other test, and all unit tests, need neither and are `pure`.
"""
