#!/usr/bin/env bash
# Encodes a video as VP9 in a WebM file.
#
# The task file is a video that ffmpeg reads; or, if its name ends in .lavfi, one line of text that describes a source of
# ffmpeg's own, such as testsrc2=size=640x360:rate=30:duration=10.
#
# usage: process_task.sh TASK-FILE RESULTS-FOLDER
# Leaves NAME.webm, and in streams.json what is in it. Exit status 2: the task file says nothing.
set -euo pipefail

task=$1 results=$2
name=$(basename "$task")
video=$results/${name%.*}.webm

if [ ! -s "$task" ]; then
  echo "error: task file \`$name\` is empty" >&2
  exit 2
fi
case $name in
  *.lavfi) input=(-f lavfi -i "$(head -n 1 "$task")") ;;
  *) input=(-i "$task") ;;
esac

# As many threads as there may be cores; without rows of its own, VP9 keeps few of them busy.
threads=$(((${GRIDFAAS_CPU_MILLICORES:-1000} + 999) / 1000))
ffmpeg -nostdin -hide_banner -loglevel warning "${input[@]}" \
  -c:v libvpx-vp9 -crf 33 -b:v 0 -deadline good -cpu-used 4 -row-mt 1 -threads "$threads" -pix_fmt yuv420p \
  -c:a libopus "$video"
ffprobe -loglevel error -show_entries format=duration,size:stream=codec_name,width,height,r_frame_rate \
  -print_format json "$video" | tee "$results/streams.json"
