"""Makes an ONNX file of a small frozen TF.js graph model; its NHWC input is kept, TensorFlow is not needed.

Source: npm @vladmandic/human@3.3.6, models/emotion.json and .bin.  Needs PyPI: onnx, numpy.
Input `input_1` [1, 64, 64, 1] grey -1..1, output `Identity` [1, 7]: probabilities of angry, disgust, fear, happy, sad, surprise, neutral.

Usage: tfjs_to_onnx.py emotion.json emotion.bin OUT.onnx     (the .bin lies beside the .json)
"""
import json,sys,base64,numpy as np,onnx
from onnx import helper as H, numpy_helper as NH, TensorProto as T
def load(jp):
    m=json.load(open(jp));W={}
    import os
    for g in m['weightsManifest']:
        raw=b''.join(open(os.path.join(os.path.dirname(jp),p),'rb').read() for p in g['paths']);o=0
        for w in g['weights']:
            n=int(np.prod(w['shape'])) if w['shape'] else 1
            q=w.get('quantization')
            if q:
                dt=q['dtype']
                if dt=='float16':
                    a=np.frombuffer(raw,np.float16,n,o).astype(np.float32);o+=2*n
                else:
                    b={'uint8':np.uint8,'uint16':np.uint16}[dt];a=np.frombuffer(raw,b,n,o).astype(np.float32)*q['scale']+q['min'];o+=b().itemsize*n
                if w['dtype']=='int32': a=a.astype(np.int32)
            else:
                b={'float32':np.float32,'int32':np.int32,'bool':np.bool_}[w['dtype']];a=np.frombuffer(raw,b,n,o);o+=b().itemsize*n
            W[w['name']]=a.reshape(w['shape'])
        assert o==len(raw),(o,len(raw))
    return m,W
def b64(x): return base64.b64decode(x).decode()
def convert(jp,out,inshape,outnames=None):
    m,W=load(jp);nodes=[];inits={};
    def init(n,a): inits[n]=NH.from_array(np.ascontiguousarray(a),n); return n
    inp=None;al={}
    r=lambda n: al.get(n.split(':')[0],n.split(':')[0])
    pend=[]
    for n in m['modelTopology']['node']:
        op=n['op'];nm=n['name'];A=n.get('attr',{});I=[r(i) for i in n.get('input',[]) if not i.startswith('^')]
        if op=='Placeholder':
            inp=nm;nodes.append(H.make_node('Transpose',[nm],[nm+'_nchw'],perm=[0,3,1,2]));al[nm]=nm+'_nchw'
        elif op=='Const': pass
        elif op in('_FusedConv2D','Conv2D','DepthwiseConv2dNative','FusedDepthwiseConv2dNative'):
            w=W[I[1]];st=[int(s) for s in A['strides']['list']['i']][1:3];pad=b64(A['padding']['s'])
            dw=op in('DepthwiseConv2dNative','FusedDepthwiseConv2dNative')
            if dw: kh,kw,c,mu=w.shape;wt=w.transpose(2,3,0,1).reshape(c*mu,1,kh,kw);grp=c
            else: wt=w.transpose(3,2,0,1);grp=1;kh,kw=w.shape[:2]
            ins=[I[0],init(nm+'_w',wt.astype(np.float32))]
            fo=[b64(x) for x in A.get('fused_ops',{}).get('list',{}).get('s',[])]
            if 'BiasAdd' in fo: ins.append(init(nm+'_b',W[I[2]].astype(np.float32)))
            y=nm if len(fo)<2 else nm+'_pre'
            nodes.append(H.make_node('Conv',ins,[y],kernel_shape=[kh,kw],strides=st,group=grp,auto_pad={'SAME':'SAME_UPPER','VALID':'VALID'}[pad]))
            for f in fo[1:]:
                if f=='Relu': nodes.append(H.make_node('Relu',[y],[nm]))
                elif f=='Relu6': nodes.append(H.make_node('Clip',[y,init(nm+'_0',np.float32(0)),init(nm+'_6',np.float32(6))],[nm]))
                elif f=='Prelu': nodes.append(H.make_node('PRelu',[y,init(nm+'_a',W[I[3]].reshape(-1,1,1).astype(np.float32))],[nm]))
                else: raise Exception(f)
        elif op=='MaxPool':
            k=[int(s) for s in A['ksize']['list']['i']][1:3];st=[int(s) for s in A['strides']['list']['i']][1:3]
            nodes.append(H.make_node('MaxPool',[I[0]],[nm],kernel_shape=k,strides=st,auto_pad={'SAME':'SAME_UPPER','VALID':'VALID'}[b64(A['padding']['s'])]))
        elif op in('AddV2','Add'): nodes.append(H.make_node('Add',I,[nm]))
        elif op=='Relu': nodes.append(H.make_node('Relu',[I[0]],[nm]))
        elif op=='Mean': nodes.append(H.make_node('GlobalAveragePool',[I[0]],[nm+'_g']));nodes.append(H.make_node('Flatten',[nm+'_g'],[nm]))
        elif op=='Softmax': nodes.append(H.make_node('Softmax',[I[0]],[nm],axis=-1))
        elif op=='Identity': nodes.append(H.make_node('Identity',[I[0]],[nm]));last=nm
        else: raise Exception(op)
    g=H.make_graph(nodes,'tfjs',[H.make_tensor_value_info(inp,T.FLOAT,inshape)],[H.make_tensor_value_info(last,T.FLOAT,None)],list(inits.values()))
    mo=H.make_model(g,opset_imports=[H.make_opsetid('',13)],ir_version=8);mo=onnx.shape_inference.infer_shapes(mo);onnx.checker.check_model(mo);onnx.save(mo,out)
if __name__=='__main__': convert(sys.argv[1],sys.argv[3],[1,64,64,1])
