# SPDX-License-Identifier: Apache-2.0
"""Test images, written from Debian packages as OCI archives.

    layer    a tree of files -> the bytes of a layer, the same for the same input
    archive  layers and a configuration -> one tar that `ctr image import` takes
    recipes  what is in each image
"""
