from __future__ import annotations

import io
import json
import unittest

from edgesdk_targets.agent import protocol
from edgesdk_targets.agent.protocol import AgentError


def add(report, *, left, right=1):
    report({"done": 0, "of": 1, "state": "adding"})
    return {"sum": left + right}


def refuse(report):
    raise AgentError("busy", "somebody  else\nholds it", "wait")


def spoil(report):
    return {"value": float("nan")}


VERBS = {"add": add, "refuse": refuse, "spoil": spoil}


def ask(*lines: bytes) -> list:
    sink = io.BytesIO()
    protocol.serve(io.BytesIO(b"".join(lines)), sink, VERBS)
    return [json.loads(line.decode()) for line in sink.getvalue().splitlines()]


def error_of(line: bytes) -> dict:
    (answer,) = ask(line)
    return answer["error"]


class Serve(unittest.TestCase):
    def test_progress_comes_before_the_result_and_both_carry_the_id(self):
        answers = ask(protocol.request(7, "add", {"left": 2, "right": 3}))
        progress = {"done": 0, "of": 1, "state": "adding"}
        expected = [{"protocol": 1, "id": 7, "progress": progress}, {"protocol": 1, "id": 7, "result": {"sum": 5}}]
        self.assertEqual(answers, expected)

    def test_requests_are_answered_in_turn_and_empty_lines_are_not(self):
        answers = ask(protocol.request(1, "add", {"left": 1}), b"\n", protocol.request(2, "add", {"left": 2}))
        self.assertEqual([(a["id"], a["result"]["sum"]) for a in answers if "result" in a], [(1, 2), (2, 3)])

    def test_what_is_not_json_is_an_error_with_id_null_and_does_not_end_the_agent(self):
        for bad in (b"{nonsense\n", b"\xff\xfe\n", b"[1]\n"):
            answers = ask(bad, protocol.request(1, "add", {"left": 1}))
            self.assertEqual((answers[0]["id"], answers[0]["error"]["kind"]), (None, "usage"))
            self.assertEqual(answers[-1]["result"], {"sum": 2})

    def test_a_line_that_is_too_long_is_refused_and_not_held(self):
        before = protocol.LINE_BYTES
        self.addCleanup(setattr, protocol, "LINE_BYTES", before)
        protocol.LINE_BYTES = 100
        line = protocol.request(1, "add", {"left": 1})
        full = line[:-1].ljust(99) + b"\n"
        for long in (line[:-1].ljust(100) + b"\n", bytes(3 << 20) + b"\n", b"[" * 200 + b"\n"):
            answers = ask(long, full, long, line)
            self.assertEqual([a.get("id") for a in answers if "progress" not in a], [None, 1, None, 1])
            self.assertEqual(answers[0]["error"]["kind"], "usage")
            self.assertIn("the request is longer than", answers[0]["error"]["fact"])
        self.assertEqual(ask(bytes(1000))[0]["error"]["kind"], "usage")

    def test_another_protocol_is_refused(self):
        error = error_of(b'{"protocol": 2, "id": 1, "verb": "add", "arguments": {}}\n')
        self.assertEqual(error["fact"], "the request has protocol 2, this agent speaks 1")

    def test_an_unknown_verb_is_refused_and_the_known_ones_are_named(self):
        error = error_of(protocol.request(1, "subtract", {}))
        self.assertEqual((error["kind"], error["remedy"]), ("usage", "use one of add, refuse, spoil"))

    def test_arguments_that_the_verb_does_not_take_are_refused(self):
        for arguments in ({}, {"left": 1, "middle": 2}):
            error = error_of(protocol.request(1, "add", arguments))
            self.assertEqual((error["kind"], error["remedy"]), ("usage", "add takes left, right"))

    def test_an_error_of_the_verb_keeps_its_fact_and_remedy_on_one_line(self):
        error = error_of(protocol.request(1, "refuse", {}))
        self.assertEqual(error, {"kind": "busy", "fact": "somebody else holds it", "remedy": "wait"})

    def test_an_exception_of_the_verb_becomes_an_answer(self):
        answers = ask(protocol.request(1, "add", {"left": "one"}))
        self.assertEqual(answers[-1]["error"]["kind"], "failed")
        self.assertIn("TypeError", answers[-1]["error"]["fact"])

    def test_a_result_that_json_cannot_carry_is_an_error(self):
        self.assertIn("ValueError", error_of(protocol.request(1, "spoil", {}))["fact"])


class Answer(unittest.TestCase):
    def test_an_answer_to_the_request_is_read(self):
        line = protocol.encode({"protocol": 1, "id": 3, "result": {}})
        self.assertEqual(protocol.answer(line, 3), {"protocol": 1, "id": 3, "result": {}})

    def test_an_error_without_an_id_answers_any_request(self):
        line = protocol.encode({"protocol": 1, "id": None, "error": {"kind": "usage"}})
        self.assertEqual(protocol.answer(line, 3)["error"], {"kind": "usage"})

    def test_anything_else_is_refused(self):
        for line in (
            b"Segmentation fault\n",
            b"3\n",
            b"{}\n",
            b'{"protocol": 2, "id": 3, "result": {}}\n',
            b'{"protocol": 1, "id": 4, "result": {}}\n',
            b'{"protocol": 1, "id": null, "result": {}}\n',
            b'{"protocol": 1, "id": 3, "result": 5}\n',
            b'{"protocol": 1, "id": 3, "result": {}, "error": {}}\n',
        ):
            with self.subTest(line=line), self.assertRaises(ValueError):
                protocol.answer(line, 3)


if __name__ == "__main__":
    unittest.main()
