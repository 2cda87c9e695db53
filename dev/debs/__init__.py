# SPDX-License-Identifier: Apache-2.0
"""Debian packages that are unpacked into the cache instead of installed.

    suite       a private apt for one suite, its sources derived from the host's own
    kernel      the kernel of the development VM and of the guests
    containerd  containerd with ctr, shim and runc, of three Debian suites
    cni         plug-ins for networks

Every result is a directory named after the exact version that was found, with a symbolic link
for the name by which the rest asks, so a later version never changes one that is in use.
"""
