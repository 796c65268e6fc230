# What a function costs where each call is a process: the function's file is read, run and ended, as EdgeFaaS does it.
import importlib.util
import sys

spec = importlib.util.spec_from_file_location("handler", sys.argv[1])
handler = importlib.util.module_from_spec(spec)
spec.loader.exec_module(handler)
answer = handler.handle(sys.stdin.read())
if answer is not None:
    print(answer)
