"""How good the catalog's expression and classification models are, and what an int8 one lost against its float one.

Needs PyPI: requirements.txt.
Usage: accuracy.py FOLDER_OF_MODELS[:FOLDER...] [--faces DIR] [--pictures DIR]... [--time]

  --faces      labelled faces (happiness_0001.png): how many are judged as labelled
  --pictures   pictures for the classifiers; one whose name ends in an underscore and a class of 0 to 999 (dog_00_243.jpg)
               or is in NAMED is counted as right where that class is best, or among the best five
  --time       milliseconds of one inference, one thread, median; pin the process yourself (taskset -c 1)

Agreement and differences are of probabilities, over every picture and five parts of it.
"""
import argparse
import pathlib
import re
import statistics
import time

import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter

import pictures

# Which of the thousand classes a sample picture shows, by eye; others of the samples show none of them.
NAMED = {"cat_720p": [281, 282, 285], "chelsea": [281, 282, 285], "coffee": [504, 967, 968], "grace_hopper": [652],
         "hot_dog": [934], "parrot": [88], "pets": [171, 172, 195], "rocket": [657, 744, 812]}
PARTS = 6


class Runner:
    """A model's file in the runtime that is its reference."""

    def __init__(self, file, entry):
        self.entry = entry
        if entry["format"] == "onnx":
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 3
            self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            self.name = self.session.get_inputs()[0].name
        else:
            self.session = Interpreter(str(file), num_threads=1)
            self.session.allocate_tensors()

    def outputs(self, value):
        """Every output by its name; bytes of a quantised one as the numbers they stand for."""
        if self.entry["format"] == "onnx":
            ports = self.session.get_outputs()
            return {port.name: out for port, out in zip(ports, self.session.run(None, {self.name: value}))}
        self.session.set_tensor(self.session.get_input_details()[0]["index"], value)
        self.session.invoke()
        found = {}
        for port in self.session.get_output_details():
            values, (scale, zero) = self.session.get_tensor(port["index"]), port["quantization"]
            found[port["name"]] = values if not scale else (values.astype(np.float32) - zero) * np.float32(scale)
        return found

    def probabilities(self, value):
        output = self.entry["output"]
        values = self.outputs(value)[output["values"]].reshape(-1).astype(np.float64)
        if output["activation"] == "softmax":
            values = np.exp(values - values.max())
            values /= values.sum()
        # A class for the background comes first where there are 1,001.
        return values[1:] if output.get("classes") == 1001 else values

    def milliseconds(self):
        given = self.entry["input"]
        height, width, channels = pictures.measures(given)
        value = pictures.tensor(np.full((height, width, channels), 99, np.uint8), given)
        times = []
        for _ in range(60):
            start = time.perf_counter()
            self.outputs(value)
            times.append(time.perf_counter() - start)
        return statistics.median(times[10:]) * 1000


def faces(runner, folder):
    labels = runner.entry["output"]["labels"]
    rows = {}
    for file in pictures.folder_of_pictures(folder):
        values = runner.probabilities(pictures.prepare(pictures.open_picture(file), runner.entry["input"]))
        rows[file.stem] = (file.stem.split("_")[0], values)
    right = {name: labels[int(values.argmax())] == label for name, (label, values) in rows.items()}
    return right, {name: values for name, (_, values) in rows.items()}


def scenes(runner, folders):
    right, fives, answers = {}, {}, {}
    for file in (file for folder in folders for file in pictures.folder_of_pictures(folder)):
        numbered = re.search(r"_(\d{1,3})$", file.stem)
        classes = NAMED.get(file.stem) or ([int(numbered[1])] if numbered else None)
        for index, part in enumerate(pictures.parts(pictures.open_picture(file), PARTS, file.name)):
            values = runner.probabilities(pictures.prepare(part, runner.entry["input"]))
            answers[f"{file.stem}/{index}"] = values
            if index == 0 and classes:
                best = [int(one) for one in np.argsort(-values)[:5]]
                right[file.stem] = best[0] in classes
                fives[file.stem] = bool(set(best) & set(classes))
    return right, fives, answers


def share(flags):
    return f"{sum(flags.values())} of {len(flags)} ({sum(flags.values()) / max(len(flags), 1):.3f})"


def compare(old, new):
    names = [name for name in new if name in old]
    a, b = (np.array([which[name] for name in names]) for which in (old, new))
    five = np.mean([len(set(np.argsort(-p)[:5]) & set(np.argsort(-q)[:5])) / 5 for p, q in zip(a, b)])
    best = np.abs(np.take_along_axis(a - b, a.argmax(1)[:, None], 1)).mean()
    return (f"same best class in {np.mean(a.argmax(1) == b.argmax(1)):.3f} of {len(names)}, "
            f"of the best five {five:.3f} the same, probability of the best class off by {best:.4f} in the mean, of any class by {np.abs(a - b).max():.3f} at most, all by {np.abs(a - b).mean():.6f} in the mean")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("models")
    arguments.add_argument("--faces")
    arguments.add_argument("--pictures", action="append", default=[])
    arguments.add_argument("--time", action="store_true")
    given = arguments.parse_args()
    folders = [*given.models.split(":"), pictures.FOLDER]
    known, answers = pictures.catalog()["models"], {}
    # The float ones first: the others are compared with them.
    for name in sorted(known, key=lambda name: "quantised_from" in known[name]):
        entry = known[name]
        file = pictures.find(entry, folders)
        if file is None or entry["task"] not in ("expression", "classify"):
            continue
        runner = Runner(file, entry)
        print(f"{name}: {file.stat().st_size} bytes" + (f", {runner.milliseconds():.2f} ms" if given.time else ""))
        if entry["task"] == "expression" and given.faces:
            right, answers[name] = faces(runner, given.faces)
            print("  as labelled:", share(right))
        elif entry["task"] == "classify" and given.pictures:
            right, fives, answers[name] = scenes(runner, given.pictures)
            print("  best is right:", share(right), " among the best five:", share(fives))
            print("  missed in the best five:", ", ".join(one for one, found in fives.items() if not found) or "none")
        origin = entry.get("quantised_from")
        if origin in answers and name in answers:
            print(f"  against {origin}:", compare(answers[origin], answers[name]))


if __name__ == "__main__":
    main()
