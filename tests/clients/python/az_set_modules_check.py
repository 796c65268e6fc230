"""usage: az_set_modules_check.py SCHEMAS MANIFEST

The check that `az iot edge set-modules` makes before it calls the hub (azext_iot.operations.hub._process_config_content in
version 0.25.0 of the extension): Draft 4 of $edgeAgent and of $edgeHub, each against the schema of its version in the
folder SCHEMAS. The extension itself is in no package registry. Exit code 1 and the errors where it refuses.
"""

import json
import pathlib
import sys

import jsonschema

schemas, manifest = map(pathlib.Path, sys.argv[1:])
content = json.loads(manifest.read_text())["modulesContent"]
refused = False
for module, name in (("$edgeAgent", "edgeagent"), ("$edgeHub", "edgehub")):
    version = content[module]["properties.desired"]["schemaVersion"]
    schema = json.loads((schemas / f"azure-iot-{name}-deployment-{version}.json").read_text())
    for error in jsonschema.Draft4Validator(schema).iter_errors({module: content[module]}):
        refused = True
        print(f"{module}: {'/'.join(map(str, error.path))}: {error.message}")
sys.exit(refused)
