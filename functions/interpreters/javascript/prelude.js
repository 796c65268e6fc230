// What a JavaScript text function finds, and how it is run. The interpreter evaluates this file once, when it is built;
// its memory is kept as it is then. `native` is what interpreter.c gives; the value of this file is {check, run}.
(function (native) {
  "use strict";

  const TEXT = "text/plain; charset=utf-8";
  const JSON_TYPE = "application/json";
  const LEVELS = { debug: 0, info: 1, warn: 2, error: 3 };
  const { stringify } = JSON;

  // While the text outside the handler runs: no state, no events. While it is only checked: no log either.
  let handling = false;
  let quiet = false;

  class Mistake extends Error {}

  class ShuntError extends Error {
    get name() {
      return this.constructor.label;
    }
    static label = "shunt.Error";
  }
  class Denied extends ShuntError {
    static label = "shunt.Denied";
  }
  class Conflict extends ShuntError {
    static label = "shunt.Conflict";
  }
  class TooLarge extends ShuntError {
    static label = "shunt.TooLarge";
  }
  const ERRORS = { error: ShuntError, denied: Denied, conflict: Conflict, "too-large": TooLarge };

  // --- bytes -------------------------------------------------------------------------------------------------------

  function view(value) {
    if (value instanceof ArrayBuffer) return new Uint8Array(value);
    if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    return undefined;
  }

  // Bytes as they are, text as UTF-8, anything else as JSON.
  function toBytes(value) {
    if (typeof value === "string") return native.encode(value);
    const bytes = view(value);
    if (bytes !== undefined) return bytes;
    const json = stringify(value);
    if (json === undefined) throw new TypeError(`a ${typeof value} cannot be kept or sent`);
    return native.encode(json);
  }

  // The text, where the bytes are UTF-8.
  function textOrBytes(bytes) {
    return native.decode(bytes, true) ?? bytes;
  }

  class TextEncoder {
    get encoding() {
      return "utf-8";
    }
    encode(text = "") {
      return native.encode(String(text));
    }
  }

  class TextDecoder {
    #fatal;
    #keepsMark;
    constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
      if (!["utf-8", "utf8", "unicode-1-1-utf-8"].includes(String(label).trim().toLowerCase())) {
        throw new RangeError(`there is only utf-8 here, not ${label}`);
      }
      this.#fatal = Boolean(fatal);
      this.#keepsMark = Boolean(ignoreBOM);
    }
    get encoding() {
      return "utf-8";
    }
    get fatal() {
      return this.#fatal;
    }
    get ignoreBOM() {
      return this.#keepsMark;
    }
    decode(data = new Uint8Array()) {
      const bytes = view(data);
      if (bytes === undefined) throw new TypeError("what is decoded is an ArrayBuffer or a view of one");
      const text = native.decode(bytes, this.#fatal);
      if (text === undefined) throw new TypeError("the bytes are not UTF-8");
      return !this.#keepsMark && text.startsWith("\uFEFF") ? text.slice(1) : text;
    }
  }

  // --- console -----------------------------------------------------------------------------------------------------

  function log(level, message) {
    if (!(level in LEVELS)) throw new RangeError(`level is one of debug, info, warn, error, not ${level}`);
    if (!quiet) for (const line of String(message).split("\n")) native.log(LEVELS[level], line);
  }

  function shown(value) {
    if (typeof value === "string") return value;
    if (value instanceof Error) return told(value);
    if (typeof value === "object" && value !== null) {
      try {
        return stringify(value) ?? String(value);
      } catch {
        return String(value);
      }
    }
    return String(value);
  }

  const line = (level) => (...values) => log(level, values.map(shown).join(" "));
  const console = { debug: line("debug"), log: line("info"), info: line("info"), warn: line("warn"), error: line("error") };

  // --- shunt -------------------------------------------------------------------------------------------------------

  // What `native` gives is [null, value], or [the kind of error, its words].
  function reached(call, ...parameters) {
    if (!handling) throw new ShuntError("state and events are there only while handle runs, not while the file is read");
    const [kind, value] = call(...parameters);
    if (kind !== null) throw new ERRORS[kind](value);
    return value;
  }

  const optional = (text) => (text === undefined || text === null ? undefined : String(text));

  const state = {
    // The value: a string where it is UTF-8, else a Uint8Array; undefined where there is none.
    get: (key) => state.entry(key)?.value,
    // The value with its tag, which changes with it.
    entry(key) {
      const found = reached(native.get, String(key));
      return found === undefined ? undefined : { value: textOrBytes(found[0]), etag: found[1] };
    },
    // Sets a string, bytes, or anything else as JSON, and gives the new tag. With a tag: only where the value has it,
    // else it throws shunt.Conflict; with "": only where there is none yet.
    set: (key, value, etag) => reached(native.set, String(key), toBytes(value), optional(etag)),
    // Whether there was one.
    delete: (key, etag) => reached(native.delete, String(key), optional(etag)),
    // The keys that begin so, in order, at most 1,000, from after the one given.
    keys: (prefix = "", after) => reached(native.keys, String(prefix), optional(after)),
  };

  function publish(topic, data, contentType) {
    const type = contentType ?? (typeof data === "string" ? TEXT : view(data) ? "application/octet-stream" : JSON_TYPE);
    reached(native.publish, String(topic), String(type), toBytes(data));
  }

  const shunt = Object.freeze({
    state: Object.freeze(state), publish, log, Error: ShuntError, Denied, Conflict, TooLarge,
  });

  // --- what is there -----------------------------------------------------------------------------------------------

  const crypto = {
    getRandomValues(array) {
      const bytes = view(array);
      if (bytes === undefined) throw new TypeError("getRandomValues fills a typed array");
      if (bytes.length > 65536) throw new RangeError("getRandomValues fills at most 65,536 bytes");
      bytes.set(native.random(bytes.length));
      return array;
    },
    randomUUID() {
      const bytes = native.random(16);
      bytes[6] = (bytes[6] & 0x0f) | 0x40;
      bytes[8] = (bytes[8] & 0x3f) | 0x80;
      const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
      return [8, 12, 16, 20, 32].map((end, i, ends) => hex.slice(ends[i - 1] ?? 0, end)).join("-");
    },
  };

  for (const [name, value] of Object.entries({ TextDecoder, TextEncoder, console, crypto, shunt })) {
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
  }

  // The engine's own generator began when the interpreter was built: all calls would draw the same numbers.
  Object.defineProperty(Math, "random", { value: () => native.uniform(), writable: true, configurable: true });

  // --- running -----------------------------------------------------------------------------------------------------

  // An exception with its lines of the text, and none of ours.
  function told(error) {
    if (error instanceof Mistake) return error.message;
    if (!(error instanceof Error)) return `${shown(error)} was thrown`;
    const lines = String(error.stack ?? "").split("\n").filter((line) => line && !/\(native\)|<shunt>/.test(line));
    const cause = error.cause === undefined ? [] : [`caused by: ${shown(error.cause)}`];
    return [`${error.name}: ${error.message}`, ...lines.slice(0, 20), ...cause].join("\n");
  }

  // What a promise comes to; there is no event loop, so that all it can wait for is other promises.
  function settled(value) {
    if (!native.isPromise(value)) return value;
    const [kind, result] = native.settle(value);
    if (kind === "pending") throw new Mistake("handle waits for something that never comes: there are no timers here");
    if (kind === "rejected") throw result;
    return result;
  }

  // Is it a module? Those have a line that begins with import or export.
  const MODULE = /^[ \t]*(?:export\b|import\b(?!\s*\())/m;

  function load(file, source) {
    let handle;
    if (MODULE.test(source)) {
      const [promise, exported] = native.module(file, source);
      settled(promise);
      handle = exported.handle ?? exported.default;
    } else {
      const module = { exports: {} };
      Object.assign(globalThis, { module, exports: module.exports });
      native.script(file, source);
      const given = module.exports;
      handle = typeof given === "function" ? given : given?.handle ?? native.script("<shunt>", "typeof handle === 'undefined' ? undefined : handle");
    }
    if (handle === undefined) {
      throw new Mistake(`${file} has no handler: it must have \`export function handle(req)\`, or \`module.exports = ...\``);
    }
    if (typeof handle !== "function") throw new Mistake(`${file} has no handler: its handle is no function`);
    return handle;
  }

  // The content type and the bytes of an answer's body.
  function content(value) {
    switch (typeof value) {
      case "undefined":
        return [TEXT, new Uint8Array()];
      case "string":
      case "number":
      case "bigint":
        return [TEXT, native.encode(String(value))];
    }
    if (value === null) return [TEXT, new Uint8Array()];
    const bytes = view(value);
    if (bytes !== undefined) return ["", bytes];
    const json = stringify(value);
    if (json === undefined) throw new Mistake(`handle gave a ${typeof value}, which cannot be sent`);
    return [JSON_TYPE, native.encode(json)];
  }

  const ANSWER = new Set(["statusCode", "body", "headers"]);

  function answer(value) {
    const isAnswer = typeof value === "object" && value !== null && Object.hasOwn(value, "statusCode") &&
      Object.keys(value).every((key) => ANSWER.has(key));
    if (!isAnswer) return [200, [], ...content(value)];
    const status = value.statusCode;
    if (!Number.isInteger(status) || status < 200 || status > 599) {
      throw new Mistake(`statusCode must be a number from 200 to 599, not ${shown(status)}`);
    }
    let [type, body] = content(value.body);
    const headers = [];
    for (const [name, text] of Object.entries(value.headers ?? {})) {
      if (name.toLowerCase() === "content-type") type = String(text);
      else headers.push([name, String(text)]);
    }
    return [status, headers, type, body];
  }

  return {
    // Undefined, or what is wrong.
    check(file, source) {
      quiet = true;
      try {
        load(file, source);
        return undefined;
      } catch (error) {
        return told(error);
      }
    },
    // [status, headers, content type, body], or what is wrong.
    run(file, source, call, headers, body) {
      try {
        const handle = load(file, source);
        handling = true;
        const context = { ...call, headers: Object.fromEntries(headers) };
        return answer(settled(handle(textOrBytes(body), context)));
      } catch (error) {
        return told(error);
      }
    },
  };
})
