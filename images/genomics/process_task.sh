#!/usr/bin/env bash
# Aligns reads to a reference and calls variants: bwa, samtools, bcftools.
#
# The task file is either reads (.fq, .fastq, also .gz), aligned to /staging/reference.fa; or, if its name ends in .sim, one
# line `GENOME READS SEED`: so many bases of a random genome, so many pairs of reads of a mutated copy of it. The same line
# makes the same data.
#
# usage: process_task.sh TASK-FILE RESULTS-FOLDER
# Leaves reads.bam with its index, calls.vcf.gz, and statistics in flagstat.txt and calls.txt. Exit status 2: the task file
# says nothing of the kind.
set -euo pipefail

task=$1 results=$2
name=$(basename "$task")
threads=$(((${GRIDFAAS_CPU_MILLICORES:-1000} + 999) / 1000))

# refuse TEXT: ends with what is wrong with the task.
refuse() {
  echo "error: task file \`$name\` $1" >&2
  exit 2
}

# random_genome BASES SEED: prints a FASTA file.
random_genome() {
  awk -v bases="$1" -v seed="$2" 'BEGIN {
    srand(seed)
    print ">random"
    for (i = 1; i <= bases; i++) {
      printf "%s%s", substr("ACGT", int(rand() * 4) + 1, 1), i % 60 == 0 || i == bases ? "\n" : ""
    }
  }'
}

case $name in
  *.sim)
    read -r bases pairs seed _ <"$task" || true
    [[ "${bases:-} ${pairs:-} ${seed:-}" =~ ^[1-9][0-9]*\ [1-9][0-9]*\ [0-9]+$ ]] || refuse 'is not one line of three numbers, GENOME READS SEED'
    random_genome "$bases" "$seed" >reference.fa
    # Its list of the mutations it made goes to standard output.
    wgsim -S "$seed" -N "$pairs" -1 100 -2 100 -R 0 reference.fa 1.fq 2.fq >"$results/mutations.txt"
    reads=(1.fq 2.fq)
    ;;
  *.fq | *.fastq | *.fq.gz | *.fastq.gz)
    [ -f /staging/reference.fa ] || refuse 'has reads, but the bucket has no staging/reference.fa'
    cp /staging/reference.fa reference.fa
    reads=("$task")
    ;;
  *) refuse 'is neither reads nor a .sim file' ;;
esac

echo "task $name: indexing"
bwa index reference.fa 2>/dev/null
samtools faidx reference.fa
echo "task $name: aligning with $threads threads"
bwa mem -v 1 -t "$threads" reference.fa "${reads[@]}" | samtools sort -@ "$threads" -o "$results/reads.bam" -
samtools index "$results/reads.bam"
samtools flagstat "$results/reads.bam" >"$results/flagstat.txt"
echo "task $name: calling variants"
bcftools mpileup --threads "$threads" -f reference.fa "$results/reads.bam" 2>/dev/null |
  bcftools call --threads "$threads" -mv -Oz -o "$results/calls.vcf.gz"
bcftools stats "$results/calls.vcf.gz" | grep '^SN' | tee "$results/calls.txt"
