"""Caffe's messages for google.protobuf, an implementation of the format that owes nothing to ours.

Built at run time from the field numbers of the published caffe.proto, as far as weights need them.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FIELDS = {  # message: {field: (number, type or message, how)}
    "BlobShape": {"dim": (1, "INT64", "packed")},
    "BlobProto": {
        "num": (1, "INT32", ""),
        "channels": (2, "INT32", ""),
        "height": (3, "INT32", ""),
        "width": (4, "INT32", ""),
        "data": (5, "FLOAT", "packed"),
        "diff": (6, "FLOAT", "packed"),
        "shape": (7, "BlobShape", ""),
        "double_data": (8, "DOUBLE", "packed"),
    },
    "LooseBlobProto": {"data": (5, "FLOAT", "repeated"), "double_data": (8, "DOUBLE", "repeated")},
    "ConvolutionParameter": {
        "num_output": (1, "UINT32", ""),
        "bias_term": (2, "BOOL", ""),
        "pad": (3, "UINT32", "repeated"),
        "kernel_size": (4, "UINT32", "repeated"),
        "stride": (6, "UINT32", "repeated"),
        "dilation": (18, "UINT32", "repeated"),
    },
    "PoolingParameter": {
        "pool": (1, "INT32", ""),
        "kernel_size": (2, "UINT32", ""),
        "stride": (3, "UINT32", ""),
        "pad": (4, "UINT32", ""),
    },
    "BatchNormParameter": {"use_global_stats": (1, "BOOL", ""), "eps": (3, "FLOAT", "")},
    "LayerParameter": {
        "name": (1, "STRING", ""),
        "type": (2, "STRING", ""),
        "bottom": (3, "STRING", "repeated"),
        "top": (4, "STRING", "repeated"),
        "blobs": (7, "BlobProto", "repeated"),
        "convolution_param": (106, "ConvolutionParameter", ""),
        "pooling_param": (121, "PoolingParameter", ""),
        "batch_norm_param": (139, "BatchNormParameter", ""),
    },
    "V1LayerParameter": {"name": (4, "STRING", ""), "type": (5, "INT32", ""), "blobs": (6, "BlobProto", "repeated")},
    "NetParameter": {
        "name": (1, "STRING", ""),
        "layers": (2, "V1LayerParameter", "repeated"),
        "input": (3, "STRING", "repeated"),
        "input_dim": (4, "INT32", "repeated"),
        "layer": (100, "LayerParameter", "repeated"),
    },
}


def message_classes():
    """The classes by the messages' names."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for message, fields in FIELDS.items():
        described = file.message_type.add(name=message)
        for name, (number, type_, how) in fields.items():
            field = described.field.add(name=name, number=number)
            field.label = kinds.LABEL_REPEATED if how else kinds.LABEL_OPTIONAL
            if how == "packed":
                field.options.packed = True
            if type_ in FIELDS:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".caffe.{type_}"
            else:
                field.type = getattr(kinds, f"TYPE_{type_}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in FIELDS}
