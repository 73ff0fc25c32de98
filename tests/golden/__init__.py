"""Golden tests: what CarRacing does, bit for bit or within a tolerance, through any refactoring.

They use the trainers' command lines, files and TensorFlow's own loaders, and nothing of the library
but `wm_tf.config`, so that they stay as they are while modules move.

| golden            | what it holds                                                             |
| ----------------- | ------------------------------------------------------------------------- |
| `presets.json`    | every field of every preset                                               |
| `run/`            | a finished run of the flags in `commands.FLAGS`, its controller evolved   |
| `actor_critic/`   | the files of that run that differ if `actor_critic` trains the controller |
| `exports.json`    | of both runs: exported signatures, their answers on fixed inputs, returns |
| `pretrained.json` | the same of `pretrained/car_racing`                                       |

`run/` serves twice: a new run of the same flags must equal it, and new code must read it as it is.

A golden that changes is a change of behaviour. If that is meant, record all of them again, or only
some, look at the difference, and say in the changelog what changed:

    python -m tests.golden.record
    python -m tests.golden.record presets
"""
