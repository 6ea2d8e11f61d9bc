"""python -m facelib.data SOURCE TARGET [--jpeg]    # pack(SOURCE, TARGET)"""

import sys

import torch

from facelib.data.source import pack

if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[3:] not in ([], ["--jpeg"]):
        sys.exit(__doc__)
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        counts = pack(*sys.argv[1:3], jpeg="--jpeg" in sys.argv, workers=torch.get_num_threads(), device=device)
    except (OSError, ValueError) as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit(f"\n{sys.argv[2]}: interrupted. The same command goes on.")
    print(f"{sys.argv[2]}: {counts['images']:,} images of {counts['identities']:,} identities")
