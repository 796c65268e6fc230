"""usage: iotedgedev_offline.py SCHEMAS ARGUMENT...

Runs iotedgedev with its JSON schemas taken from the folder SCHEMAS. On its own it fetches them from the web, and where it
cannot it skips the check and says that all is well.
"""

import pathlib
import sys

from iotedgedev.constants import Constants

schemas = pathlib.Path(sys.argv[1]).resolve()
Constants.deployment_manifest_schema_url = (schemas / "azure-iot-edge-deployment-2.0.json").as_uri()
Constants.deployment_template_schema_url = (schemas / "azure-iot-edge-deployment-template-4.0.json").as_uri()

from iotedgedev import cli  # noqa: E402  (reads the constants)

sys.argv = ["iotedgedev", *sys.argv[2:]]
sys.exit(cli.main())
