#!/usr/bin/env bash
# peft_test.py under the interop Python, or under the system's, where it says what is missing.
exec "${LORAD_INTEROP_PYTHON:-python3}" "$(dirname "$0")/peft_test.py"
