"""old/new curves through the real loop."""
import sys, json, hashlib, pathlib
import pytest
from mlip.fingerprints import Fingerprint
from mlip.methods import entries
from mlip.paths import StudyPaths
from mlip.pretraining.loop import pretrain
from safetensors.torch import load_file
import os
@pytest.mark.parametrize("m",["convirt","gloria","mgca","cvpr24","isbi24"])
def test_it(rows_in,m):
    s=rows_in(epochs=2,batch_size=16); s=s.model_copy(update={"methods":s.methods.model_copy(update={"include":[m]})})
    e=entries(s)[0][m]
    pretrain(s,e,0,Fingerprint("",""))
    f=StudyPaths(s).pretrain(m,0)
    h=hashlib.sha256()
    for k,v in sorted(load_file(f/"method.safetensors").items()): h.update(k.encode()); h.update(v.numpy().tobytes())
    flops=json.loads((f/"card.json").read_text())["flops_per_step"]
    new=[(f/"metrics.jsonl").read_text(),h.hexdigest(),flops]
    p=pathlib.Path(f"/tmp/dev_train_{m}.json")
    if os.environ.get("SAVE"): p.write_text(json.dumps(new))
    else:
        old=json.loads(p.read_text()); assert old[0]==new[0]; assert old[1]==new[1]; assert old[2]==new[2]
