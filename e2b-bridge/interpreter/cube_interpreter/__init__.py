# SPDX-License-Identifier: Apache-2.0
"""The code interpreter: an HTTP server inside of a sandbox that runs code in Jupyter kernels.

It speaks what the E2B code interpreter's SDKs speak on port 49999, and decides nothing but that: kernels
are real ones (ipykernel, bash_kernel), driven over their own protocol by jupyter_client. The bridge starts
it when a template is built, so that in a sandbox the kernel is up before the first request.

    server       routes, requests, answers
    contexts     the kernels by name
    kernel       one kernel: its life, one execution at a time
    outputs      a kernel's messages -> the lines of an answer
    languages    what is known of each language
    startup      loaded into Python's kernel: what is shown of figures, tables and images
    javascript   a Jupyter kernel around node
"""
