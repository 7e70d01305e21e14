#!/usr/bin/env bash
# A folder of RGB-D recordings, of which a quarter has labels, through everything: no line of Python.
#   examples/recordings.sh [folder] [records]     minutes on two cores
set -euo pipefail
home=${1:-runs/recordings} records=${2:-2000}
net="--backbone resnet10 --width 0.25 --head integral --stem-stride 2 --heatmap-weight 1000 --px 48"
training="$net --epochs 12 --batch 32 --lr 3e-3 --schedule cosine --augmentation.turn-deg 20 --augmentation.shift 0.03 --augmentation.zoom 0.05 --augmentation.colour 0.15 --augmentation.erase 0"
sets="--data $home/train --test $home/test"

cmkg data make --dataset folder --root "$home/rec" --count "$records"
cmkg data verify --dataset folder --root "$home/rec" --split all
cmkg data inspect --dataset folder --root "$home/rec" --out "$home/sheet.png"
cmkg data pack --dataset folder --root "$home/rec" --split train --px 60 --out "$home/train"
cmkg data pack --dataset folder --root "$home/rec" --split test --px 60 --out "$home/test"
cmkg teacher $sets $training --out "$home/teacher"
cmkg student $sets $training --out "$home/student"
taught="$sets ${training#"$net"} --student $home/student --start theta_0 --criterion outputs --output-weight 10 --unlabelled 0.75 --exponents"
cmkg distill $taught --teacher "$home/teacher" --out "$home/distilled"
cmkg distill $taught --teacher "$home/student" --out "$home/control"   # taught by one that sees no more
cmkg target --data "$home/train" --test "$home/test" --student "$home/student" --source "$home/train" \
    --start "$home/distilled/distilled.safetensors" --epochs 2 --lr 1e-4 --batch 32 --out "$home/target"
cmkg evaluate --weights "$home/target/target.safetensors" --data "$home/test" --student "$home/student" \
    --protocol freihand --out "$home/evaluate"
