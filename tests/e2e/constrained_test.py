#!/usr/bin/env python3
"""Answers that a regular expression or a JSON schema ties down, from a real model and its tokenizer."""

import json
import re
import unittest

import harness

SCHEMA = {
    "type": "object",
    "properties": {
        "zone": {"enum": ["north", "south"]},
        "amount": {"type": "integer", "minimum": 1, "maximum": 500},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "minItems": 1, "maxItems": 3},
        "paid": {"type": ["boolean", "null"]},
    },
    "required": ["zone", "amount", "tags"],
}
PATTERN = r"SELECT [a-z]{1,8} FROM [a-z]{1,8}( WHERE [a-z]{1,8} = [0-9]{1,3})?;"


class ConstrainedTest(harness.LoradTest):
    def setUp(self):
        super().setUp()
        self.server = self.lorad(model=harness.DEMO)

    def assert_satisfies(self, text):
        value = json.loads(text)
        self.assertEqual([key for key in SCHEMA["properties"] if key in value], list(value), "the schema's order")
        self.assertIn(value["zone"], ("north", "south"))
        self.assertTrue(1 <= value["amount"] <= 500)
        self.assertTrue(1 <= len(value["tags"]) <= 3)
        self.assertTrue(all(len(tag) <= 6 for tag in value["tags"]))
        self.assertIn(value.get("paid"), (True, False, None))

    def test_each_line_of_one_batch_has_its_own_form(self):
        schema = self.dir / "schema.json"
        schema.write_text(json.dumps(SCHEMA))
        rows = []
        for i in range(12):
            rows.append({"prompt": f"Question {i}:"})
            rows.append({"prompt": f"Question {i}:", "regex": PATTERN})
        path = self.write_jsonl("rows.jsonl", rows)
        answers = self.server.json_lines("generate", f"--jsonl={path}", f"--json_schema={schema}", "--max_tokens=200",
                                         "--temperature=1.5", "--seed=3")
        self.assertEqual(len(answers), len(rows))
        for row, answer in zip(rows, answers):
            self.assertEqual(answer["finish_reason"], "stop", answer)
            if "regex" in row:
                self.assertRegex(answer["text"], f"^{PATTERN}$")
            else:
                self.assert_satisfies(answer["text"])

    def test_json_object(self):
        answer = self.server.json("generate", "--prompt=Some facts:", "--json_object", "--temperature=0",
                                  "--max_tokens=200")
        if answer["finish_reason"] == "stop":
            self.assertIsInstance(json.loads(answer["text"]), dict)
        else:
            self.assertTrue(answer["text"].startswith("{"))

    def test_what_cannot_be_held_is_refused(self):
        result = self.server.run("generate", "--prompt=x", r"--regex=(a)\1", code=5)
        self.assertIn("regex: at byte 3: a backreference", result.err)
        result = self.server.run("generate", "--prompt=x", '--json_schema={"uniqueItems": true}', code=5)
        self.assertIn("uniqueItems", result.err)

    def test_without_a_tokenizer_there_is_no_text_to_constrain(self):
        server = self.lorad(name="ids")
        result = server.run("generate", "--ids=[1,2,3]", "--regex=a+", code=6)
        self.assertIn("tokenizer", result.err)


if __name__ == "__main__":
    unittest.main()
