"""`pytest_tests`: one Bazel test for every `*_test.py` of a folder."""

load("@rules_python//python:defs.bzl", "py_test")

def pytest_tests(srcs, deps = [], data = [], size = "medium", tags = []):
    """Declares a py_test named after each `*_test.py`.

    Args:
      srcs: the folder's Python files; those that are no tests go with every test.
      deps: the libraries that the files import, directly or through another.
      data: files that they read.
      size: Bazel's test size.
      tags: Bazel's tags.
    """
    helpers = [src for src in srcs if not src.endswith("_test.py")]
    for src in srcs:
        if src not in helpers:
            py_test(
                name = src[:-len(".py")],
                size = size,
                srcs = helpers + [src, "//bazel:pytest_main.py"],
                args = ["$(rootpath %s)" % src],
                data = data + ["//:pyproject.toml"],
                legacy_create_init = 0,
                main = "//bazel:pytest_main.py",
                tags = tags,
                deps = deps + ["//tests:helpers"],
            )
