// The mean of the numbers of this call, and of all calls before it: `4,6` gives {"mean":5,"of all":5,"calls":1}, and
// then `1` gives {"mean":1,"of all":3.6666666666666665,"calls":2}.
//
// What was before is in the function's bucket; install it with `--grant state=averages`. `GET` (or no numbers) only
// tells what is known. Two calls at a time do not lose each other's numbers: a value is only replaced where nobody
// else has replaced it since, and who comes second counts again.

const KEY = "sum";
// A call that always comes second gives up.
const TRIES = 100;

function read() {
  const entry = shunt.state.entry(KEY);
  if (entry === undefined) {
    return { etag: "", known: { sum: 0, count: 0, calls: 0 } };
  }
  return { etag: entry.etag, known: JSON.parse(entry.value) };
}

function answer(known, mean) {
  const all = known.count === 0 ? null : known.sum / known.count;
  return { mean, "of all": all, calls: known.calls };
}

export function handle(req) {
  const text = typeof req === "string" ? req.trim() : "";
  if (text === "") {
    return answer(read().known, null);
  }
  const numbers = text.split(",").map((word) => (word.trim() === "" ? NaN : Number(word)));
  if (numbers.some(Number.isNaN)) {
    throw new Error("numbers that are separated by commas are wanted");
  }
  const sum = numbers.reduce((one, other) => one + other, 0);
  for (let tries = 0; tries < TRIES; tries++) {
    const { etag, known } = read();
    const next = { sum: known.sum + sum, count: known.count + numbers.length, calls: known.calls + 1 };
    try {
      shunt.state.set(KEY, next, etag);
      return answer(next, sum / numbers.length);
    } catch (error) {
      if (!(error instanceof shunt.Conflict)) throw error;
    }
  }
  throw new Error("others were always quicker");
}
