"""Stands in for rules_java under Bazel 4: what Bazel's own tools load from it, re-exported."""

java_import = native.java_import
java_library = native.java_library
java_runtime = native.java_runtime
java_toolchain = native.java_toolchain
