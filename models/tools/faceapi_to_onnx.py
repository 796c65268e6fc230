"""Makes an ONNX file of face-api's face_expression_model (TF.js weights in bytes).

Source: npm @vladmandic/face-api@1.7.15.  Needs PyPI: onnx, numpy.
Input `input` [1, 3, 112, 112] RGB 0..255, output `logits` [1, 7]: neutral, happy, sad, angry, fearful, disgusted, surprised.

Usage: faceapi_to_onnx.py face_expression_model.bin face_expression_model-weights_manifest.json OUT.onnx
"""
import json,numpy as np,onnx,sys
from onnx import helper as H,numpy_helper as NH,TensorProto as T
mf=json.load(open(sys.argv[2]))
raw=open(sys.argv[1],'rb').read();W={};o=0
for g in mf:
    for w in g['weights']:
        n=int(np.prod(w['shape']));q=w.get('quantization')
        if q: a=np.frombuffer(raw,np.uint8,n,o).astype(np.float32)*q['scale']+q['min'];o+=n
        else: a=np.frombuffer(raw,np.float32,n,o);o+=4*n
        W[w['name']]=a.reshape(w['shape'])
assert o==len(raw),(o,len(raw))
N=[];I={};c=[0]
def init(a):
    n='w%d'%len(I);I[n]=NH.from_array(np.ascontiguousarray(a.astype(np.float32)),n);return n
def node(op,ins,**k):
    c[0]+=1;y='t%d'%c[0];N.append(H.make_node(op,ins,[y],**k));return y
def conv(x,p,st):
    w=W[p+'/filters'];return node('Conv',[x,init(w.transpose(3,2,0,1)),init(W[p+'/bias'])],kernel_shape=[3,3],strides=[st,st],auto_pad='SAME_UPPER')
def dws(x,p,st):
    w=W[p+'/depthwise_filter'];C=w.shape[2]
    y=node('Conv',[x,init(w.transpose(2,3,0,1))],kernel_shape=[3,3],strides=[st,st],group=C,auto_pad='SAME_UPPER')
    return node('Conv',[y,init(W[p+'/pointwise_filter'].transpose(3,2,0,1)),init(W[p+'/bias'])],kernel_shape=[1,1])
def block(x,p,first):
    o1=node('Relu',[conv(x,p+'/conv0',2) if first else dws(x,p+'/conv0',2)])
    s=o1
    outs=dws(o1,p+'/conv1',1);s=node('Add',[o1,outs])
    for k in (2,3):
        r=node('Relu',[s]);s=node('Add',[s,dws(r,p+f'/conv{k}',1)])
    return node('Relu',[s])
x=node('Sub',['input',init(np.array([122.782,117.001,104.298]).reshape(1,3,1,1))]);x=node('Div',[x,init(np.array(255.))])
for k in range(4): x=block(x,f'dense{k}',k==0)
x=node('AveragePool',[x],kernel_shape=[7,7],strides=[2,2]);x=node('Flatten',[x])
N.append(H.make_node('Gemm',[x,init(W['fc/weights']),init(W['fc/bias'])],['logits']))
g=H.make_graph(N,'face_expression',[H.make_tensor_value_info('input',T.FLOAT,[1,3,112,112])],[H.make_tensor_value_info('logits',T.FLOAT,[1,7])],list(I.values()))
m=H.make_model(g,opset_imports=[H.make_opsetid('',13)],ir_version=8);onnx.checker.check_model(m);onnx.save(m,sys.argv[3])
