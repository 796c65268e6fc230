// The JavaScript interpreter of text functions: QuickJS-ng, and prelude.js over it.
//
// `scripts/build-interpreters` compiles this to WebAssembly, runs `initialize` once and keeps the memory as it is then,
// so that a call begins with an engine that is ready and a prelude that is read.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "bindings/text.h"
#include "quickjs.h"

// Made from prelude.js by the build.
extern const char prelude[];
extern const size_t prelude_len;

// Bytes of the stack that JavaScript may use, of the megabyte that the linker gives: what is left is for C.
#define STACK_BYTES (384 * 1024)

static JSRuntime *runtime;
static JSContext *context;
static JSValue check_function;
static JSValue run_function;
static bool started;

// The bindings want an object file linked in that tells the component's type; the build embeds the type itself.
void __component_type_object_force_link_text(void) {}

// --- what the engine asks of the system --------------------------------------------------------------------------

int __real_gettimeofday(struct timeval *now, void *zone);
int __real_clock_gettime(clockid_t clock, struct timespec *now);

// The engine reads the clocks when it begins, and seeds a generator with one. While the memory that is kept is made,
// they stand still: a build gives the same bytes each time. Nothing draws from that generator; see Math.random in
// prelude.js.
int __wrap_gettimeofday(struct timeval *now, void *zone) {
  if (started) return __real_gettimeofday(now, zone);
  now->tv_sec = 1;
  now->tv_usec = 0;
  return 0;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now) {
  if (started) return __real_clock_gettime(clock, now);
  now->tv_sec = 1;
  now->tv_nsec = 0;
  return 0;
}

int __imported_wasi_snapshot_preview1_random_get(int32_t buffer, int32_t length)
    __attribute__((import_module("wasi_snapshot_preview1"), import_name("random_get")));

static void random_bytes(void *buffer, size_t length) {
  if (__imported_wasi_snapshot_preview1_random_get((int32_t)buffer, (int32_t)length) != 0) abort();
}

// --- values ------------------------------------------------------------------------------------------------------

static JSValue string_of(const uint8_t *bytes, size_t length) {
  return JS_NewStringLen(context, (const char *)bytes, length);
}

// The text as UTF-8, to be freed with free(). False: an exception is pending.
static bool text_of(JSValueConst value, text_string_t *text) {
  size_t length;
  const char *bytes = JS_ToCStringLen(context, &length, value);
  if (bytes == NULL) return false;
  text_string_dup_n(text, bytes, length);
  JS_FreeCString(context, bytes);
  return true;
}

// As text_of, but nothing for undefined.
static bool optional_text_of(JSValueConst value, text_string_t *text, text_string_t **given) {
  *given = NULL;
  if (JS_IsUndefined(value)) return true;
  if (!text_of(value, text)) return false;
  *given = text;
  return true;
}

// [first, second]
static JSValue pair(JSValue first, JSValue second) {
  JSValue array = JS_NewArray(context);
  JS_SetPropertyUint32(context, array, 0, first);
  JS_SetPropertyUint32(context, array, 1, second);
  return array;
}

static JSValue done(JSValue value) { return pair(JS_NULL, value); }

// ---- UTF-8

// How many of the bytes are the next sign in UTF-8, by the table of the Unicode standard; 0: they are none.
static size_t sign_length(const uint8_t *bytes, size_t length) {
  uint8_t first = bytes[0], least = 0x80, most = 0xBF;
  size_t more;
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) more = 1;
  else if (first >= 0xE0 && first <= 0xEF) more = 2;
  else if (first >= 0xF0 && first <= 0xF4) more = 3;
  else return 0;
  if (first == 0xE0) least = 0xA0;
  if (first == 0xED) most = 0x9F;
  if (first == 0xF0) least = 0x90;
  if (first == 0xF4) most = 0x8F;
  for (size_t i = 1; i <= more; i++) {
    if (i >= length || bytes[i] < least || bytes[i] > most) return 0;
    least = 0x80, most = 0xBF;
  }
  return more + 1;
}

static bool is_utf8(const uint8_t *bytes, size_t length) {
  for (size_t i = 0, sign; i < length; i += sign) {
    sign = sign_length(bytes + i, length - i);
    if (sign == 0) return false;
  }
  return true;
}

// --- what prelude.js is given ------------------------------------------------------------------------------------

static JSValue native_log(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
  int32_t level;
  text_string_t message;
  if (JS_ToInt32(ctx, &level, argv[0]) || !text_of(argv[1], &message)) return JS_EXCEPTION;
  shunt_functions_log_log((uint8_t)level, &message);
  text_string_free(&message);
  return JS_UNDEFINED;
}

static JSValue native_encode(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
  size_t length;
  const char *bytes = JS_ToCStringLen(ctx, &length, argv[0]);
  if (bytes == NULL) return JS_EXCEPTION;
  JSValue array = JS_NewUint8ArrayCopy(ctx, (const uint8_t *)bytes, length);
  JS_FreeCString(ctx, bytes);
  return array;
}

// decode(bytes, only whole UTF-8): undefined where it is none.
static JSValue native_decode(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
  size_t length;
  const uint8_t *bytes = JS_GetUint8Array(ctx, &length, argv[0]);
  if (bytes == NULL) return JS_EXCEPTION;
  if (is_utf8(bytes, length)) return string_of(bytes, length);
  if (JS_ToBool(ctx, argv[1])) return JS_UNDEFINED;
  // Each byte that begins no sign becomes the replacement sign, of three bytes.
  uint8_t *mended = js_malloc(ctx, length * 3);
  if (mended == NULL) return JS_EXCEPTION;
  size_t end = 0;
  for (size_t i = 0; i < length;) {
    size_t sign = sign_length(bytes + i, length - i);
    memcpy(mended + end, sign == 0 ? (const uint8_t *)"\xEF\xBF\xBD" : bytes + i, sign == 0 ? 3 : sign);
    end += sign == 0 ? 3 : sign;
    i += sign == 0 ? 1 : sign;
  }
  JSValue text = string_of(mended, end);
  js_free(ctx, mended);
  return text;
}

static JSValue native_random(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
  uint32_t length;
  if (JS_ToUint32(ctx, &length, argv[0])) return JS_EXCEPTION;
  uint8_t *bytes = js_malloc(ctx, length + 1);
  if (bytes == NULL) return JS_EXCEPTION;
  random_bytes(bytes, length);
  JSValue array = JS_NewUint8ArrayCopy(ctx, bytes, length);
  js_free(ctx, bytes);
  return array;
}

// As xorshift64*, begun anew in each call.
static JSValue native_uniform(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
  static uint64_t state;
  while (state == 0) random_bytes(&state, sizeof(state));
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return JS_NewFloat64(ctx, (double)((state * 0x2545F4914F6CDD1DULL) >> 11) * 0x1.0p-53);
}

static JSValue native_is_promise(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
  return JS_NewBool(ctx, JS_IsPromise(argv[0]));
}

// [how it ended, its value]; runs what waits until nothing does.
static JSValue native_settle(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
  JSContext *of_job;
  JS_PromiseMarkAsHandled(ctx, argv[0]);
  while (JS_PromiseState(ctx, argv[0]) == JS_PROMISE_PENDING) {
    int ran = JS_ExecutePendingJob(runtime, &of_job);
    if (ran < 0) return JS_EXCEPTION;
    if (ran == 0) return pair(JS_NewString(ctx, "pending"), JS_UNDEFINED);
  }
  bool fulfilled = JS_PromiseState(ctx, argv[0]) == JS_PROMISE_FULFILLED;
  return pair(JS_NewString(ctx, fulfilled ? "fulfilled" : "rejected"), JS_PromiseResult(ctx, argv[0]));
}

// script(file, source): what it comes to.
static JSValue native_script(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
  size_t length;
  const char *file = JS_ToCString(ctx, argv[0]);
  const char *source = file == NULL ? NULL : JS_ToCStringLen(ctx, &length, argv[1]);
  if (source == NULL) return JS_EXCEPTION;
  JSValue value = JS_Eval(ctx, source, length, file, JS_EVAL_TYPE_GLOBAL);
  JS_FreeCString(ctx, source);
  JS_FreeCString(ctx, file);
  return value;
}

// module(file, source): [a promise of its end, what it exports].
static JSValue native_module(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
  size_t length;
  const char *file = JS_ToCString(ctx, argv[0]);
  const char *source = file == NULL ? NULL : JS_ToCStringLen(ctx, &length, argv[1]);
  if (source == NULL) return JS_EXCEPTION;
  JSValue module = JS_Eval(ctx, source, length, file, JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
  JS_FreeCString(ctx, source);
  JS_FreeCString(ctx, file);
  if (JS_IsException(module)) return module;
  JSModuleDef *definition = JS_VALUE_GET_PTR(module);
  JSValue promise = JS_EvalFunction(ctx, module);
  if (JS_IsException(promise)) return promise;
  return pair(promise, JS_GetModuleNamespace(ctx, definition));
}

// ---- what was granted

static JSValue state_failed(shunt_functions_state_error_t *error) {
  static const char *const kinds[] = {"denied", "conflict", "too-large", "error"};
  JSValue words = error->tag == SHUNT_FUNCTIONS_STATE_ERROR_CONFLICT
                      ? JS_NewString(context, "the value has another etag")
                      : string_of(error->val.other.ptr, error->val.other.len);
  JSValue failed = pair(JS_NewString(context, kinds[error->tag & 3]), words);
  shunt_functions_state_error_free(error);
  return failed;
}

static JSValue native_get(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
  text_string_t key;
  shunt_functions_state_option_entry_t found;
  shunt_functions_state_error_t error;
  if (!text_of(argv[0], &key)) return JS_EXCEPTION;
  bool was_done = shunt_functions_state_get(&key, &found, &error);
  text_string_free(&key);
  if (!was_done) return state_failed(&error);
  if (!found.is_some) return done(JS_UNDEFINED);
  JSValue value = JS_NewUint8ArrayCopy(ctx, found.val.value.ptr, found.val.value.len);
  JSValue entry = pair(value, string_of(found.val.etag.ptr, found.val.etag.len));
  shunt_functions_state_option_entry_free(&found);
  return done(entry);
}

static JSValue native_set(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
  text_string_t key, etag, *given, new_etag;
  shunt_functions_state_error_t error;
  text_list_u8_t value;
  value.ptr = JS_GetUint8Array(ctx, &value.len, argv[1]);
  if (value.ptr == NULL || !text_of(argv[0], &key)) return JS_EXCEPTION;
  if (!optional_text_of(argv[2], &etag, &given)) return JS_EXCEPTION;
  bool was_done = shunt_functions_state_set(&key, &value, given, &new_etag, &error);
  text_string_free(&key);
  if (given != NULL) text_string_free(given);
  if (!was_done) return state_failed(&error);
  JSValue answer = string_of(new_etag.ptr, new_etag.len);
  text_string_free(&new_etag);
  return done(answer);
}

static JSValue native_delete(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
  text_string_t key, etag, *given;
  shunt_functions_state_error_t error;
  bool was_there;
  if (!text_of(argv[0], &key) || !optional_text_of(argv[1], &etag, &given)) return JS_EXCEPTION;
  bool was_done = shunt_functions_state_delete(&key, given, &was_there, &error);
  text_string_free(&key);
  if (given != NULL) text_string_free(given);
  return was_done ? done(JS_NewBool(ctx, was_there)) : state_failed(&error);
}

static JSValue native_keys(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
  text_string_t prefix, after, *given;
  text_list_string_t keys;
  shunt_functions_state_error_t error;
  if (!text_of(argv[0], &prefix) || !optional_text_of(argv[1], &after, &given)) return JS_EXCEPTION;
  bool was_done = shunt_functions_state_keys(&prefix, given, &keys, &error);
  text_string_free(&prefix);
  if (given != NULL) text_string_free(given);
  if (!was_done) return state_failed(&error);
  JSValue array = JS_NewArray(ctx);
  for (size_t i = 0; i < keys.len; i++)
    JS_SetPropertyUint32(ctx, array, i, string_of(keys.ptr[i].ptr, keys.ptr[i].len));
  text_list_string_free(&keys);
  return done(array);
}

static JSValue native_publish(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
  text_string_t topic, content_type;
  text_list_u8_t data;
  shunt_functions_events_publish_error_t error;
  data.ptr = JS_GetUint8Array(ctx, &data.len, argv[2]);
  if (data.ptr == NULL || !text_of(argv[0], &topic) || !text_of(argv[1], &content_type)) return JS_EXCEPTION;
  bool was_done = shunt_functions_events_publish(&topic, &content_type, &data, &error);
  text_string_free(&topic);
  text_string_free(&content_type);
  if (was_done) return done(JS_UNDEFINED);
  const char *kind = error.tag == SHUNT_FUNCTIONS_EVENTS_PUBLISH_ERROR_DENIED ? "denied" : "error";
  JSValue failed = pair(JS_NewString(ctx, kind), string_of(error.val.denied.ptr, error.val.denied.len));
  shunt_functions_events_publish_error_free(&error);
  return failed;
}

static const JSCFunctionListEntry natives[] = {
    JS_CFUNC_DEF("log", 2, native_log),
    JS_CFUNC_DEF("encode", 1, native_encode),
    JS_CFUNC_DEF("decode", 2, native_decode),
    JS_CFUNC_DEF("random", 1, native_random),
    JS_CFUNC_DEF("uniform", 0, native_uniform),
    JS_CFUNC_DEF("isPromise", 1, native_is_promise),
    JS_CFUNC_DEF("settle", 1, native_settle),
    JS_CFUNC_DEF("script", 2, native_script),
    JS_CFUNC_DEF("module", 2, native_module),
    JS_CFUNC_DEF("get", 1, native_get),
    JS_CFUNC_DEF("set", 3, native_set),
    JS_CFUNC_DEF("delete", 2, native_delete),
    JS_CFUNC_DEF("keys", 2, native_keys),
    JS_CFUNC_DEF("publish", 3, native_publish),
};

// --- the interpreter ---------------------------------------------------------------------------------------------

void __wasm_call_ctors(void);

__attribute__((export_name("initialize"))) void initialize(void) {
  __wasm_call_ctors();
  runtime = JS_NewRuntime();
  if (runtime == NULL) abort();
  JS_SetMaxStackSize(runtime, STACK_BYTES);
  context = JS_NewContext(runtime);
  if (context == NULL) abort();
  JSValue make = JS_Eval(context, prelude, prelude_len, "<shunt>", JS_EVAL_TYPE_GLOBAL);
  JSValue native = JS_NewObject(context);
  JS_SetPropertyFunctionList(context, native, natives, sizeof(natives) / sizeof(natives[0]));
  JSValue functions = JS_Call(context, make, JS_UNDEFINED, 1, (JSValueConst *)&native);
  if (JS_IsException(functions)) abort();
  check_function = JS_GetPropertyStr(context, functions, "check");
  run_function = JS_GetPropertyStr(context, functions, "run");
  JS_FreeValue(context, native);
  JS_FreeValue(context, make);
  JS_FreeValue(context, functions);
  JS_RunGC(runtime);
  started = true;
}

// The words of a result that is no answer. An exception that got here is one of the prelude itself, or comes from a
// stack that is full.
static void account_of(JSValue result, text_string_t *account) {
  JSValue value = JS_IsException(result) ? JS_GetException(context) : result;
  if (!text_of(value, account)) text_string_dup(account, "it failed, and to say how failed too");
}

bool exports_shunt_functions_interpreter_check(text_string_t *file, text_string_t *source, text_string_t *err) {
  JSValue arguments[] = {string_of(file->ptr, file->len), string_of(source->ptr, source->len)};
  JSValue result = JS_Call(context, check_function, JS_UNDEFINED, 2, (JSValueConst *)arguments);
  if (JS_IsUndefined(result)) return true;
  account_of(result, err);
  return false;
}

static void set_string(JSValue object, const char *name, const text_string_t *text) {
  JS_SetPropertyStr(context, object, name, string_of(text->ptr, text->len));
}

static JSValue headers_of(const text_list_tuple2_string_string_t *list) {
  JSValue headers = JS_NewArray(context);
  for (size_t i = 0; i < list->len; i++) {
    JSValue name = string_of(list->ptr[i].f0.ptr, list->ptr[i].f0.len);
    JS_SetPropertyUint32(context, headers, i, pair(name, string_of(list->ptr[i].f1.ptr, list->ptr[i].f1.len)));
  }
  return headers;
}

// The instance ends with its answer: what is still there is not freed one by one.
static bool answer_of(JSValue result, exports_shunt_functions_interpreter_answer_t *answer) {
  int32_t status, count;
  JSValue headers = JS_GetPropertyUint32(context, result, 1);
  JSValue body = JS_GetPropertyUint32(context, result, 3);
  size_t length;
  const uint8_t *bytes = JS_GetUint8Array(context, &length, body);
  if (bytes == NULL && length != 0) return false;
  if (JS_ToInt32(context, &status, JS_GetPropertyUint32(context, result, 0))) return false;
  if (JS_ToInt32(context, &count, JS_GetPropertyStr(context, headers, "length"))) return false;
  if (!text_of(JS_GetPropertyUint32(context, result, 2), &answer->content_type)) return false;
  answer->status = (uint16_t)status;
  answer->headers.len = count;
  answer->headers.ptr = count == 0 ? NULL : malloc(count * sizeof(answer->headers.ptr[0]));
  if (count != 0 && answer->headers.ptr == NULL) return false;
  for (int32_t i = 0; i < count; i++) {
    JSValue header = JS_GetPropertyUint32(context, headers, i);
    if (!text_of(JS_GetPropertyUint32(context, header, 0), &answer->headers.ptr[i].f0)) return false;
    if (!text_of(JS_GetPropertyUint32(context, header, 1), &answer->headers.ptr[i].f1)) return false;
  }
  answer->body.len = length;
  answer->body.ptr = length == 0 ? NULL : malloc(length);
  if (length != 0 && answer->body.ptr == NULL) return false;
  if (length != 0) memcpy(answer->body.ptr, bytes, length);
  return true;
}

bool exports_shunt_functions_interpreter_run(text_string_t *file, text_string_t *source,
                                             exports_shunt_functions_interpreter_call_t *call,
                                             exports_shunt_functions_interpreter_answer_t *ret, text_string_t *err) {
  JSValue about = JS_NewObject(context);
  set_string(about, "name", &call->name);
  set_string(about, "source", &call->source);
  set_string(about, "method", &call->method);
  set_string(about, "path", &call->path);
  set_string(about, "query", &call->query);
  set_string(about, "contentType", &call->content_type);
  JSValue arguments[] = {
      string_of(file->ptr, file->len), string_of(source->ptr, source->len), about, headers_of(&call->headers),
      JS_NewUint8ArrayCopy(context, call->body.ptr, call->body.len),
  };
  JSValue result = JS_Call(context, run_function, JS_UNDEFINED, 5, (JSValueConst *)arguments);
  if (JS_IsArray(result) && answer_of(result, ret)) return true;
  account_of(JS_IsArray(result) ? JS_EXCEPTION : result, err);
  return false;
}
