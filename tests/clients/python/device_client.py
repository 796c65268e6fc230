"""Asks the device registry over gRPC, and tells as JSON, one line a name, what it said.

usage: device_client.py HOST:PORT NAME...
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

TEXT, BOOLEAN = descriptor_pb2.FieldDescriptorProto.TYPE_STRING, descriptor_pb2.FieldDescriptorProto.TYPE_BOOL


def messages():
    """DeviceName and Device, as gbaeke/go-device describes them: no package."""
    file = descriptor_pb2.FileDescriptorProto(name="device.proto", syntax="proto3")
    for name, fields in {"DeviceName": [("name", TEXT)], "Device": [("name", TEXT), ("active", BOOLEAN)]}.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields, start=1):
            message.field.add(name=field, number=number, type=kind, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in ("DeviceName", "Device")]


DeviceName, Device = messages()
address, names = sys.argv[1], sys.argv[2:]
with grpc.insecure_channel(address) as channel:
    get = channel.unary_unary(
        "/DevSvc/Get",
        request_serializer=DeviceName.SerializeToString,
        response_deserializer=Device.FromString,
    )
    for name in names:
        try:
            device = get(DeviceName(name=name), timeout=20)
            print(json.dumps({"name": device.name, "active": device.active}), flush=True)
        except grpc.RpcError as error:
            print(json.dumps({"error": error.code().name}), flush=True)
