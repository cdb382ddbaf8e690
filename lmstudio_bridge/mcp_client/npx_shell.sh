#!/bin/sh
# The shell with which npx runs a package: without the folders of programs that it found in the project.
kept=
IFS=:
for folder in $PATH; do
    case $folder in
    */_npx/*) kept=$kept:$folder ;;
    */node_modules/.bin) ;;
    *) kept=$kept:$folder ;;
    esac
done
PATH=${kept#:}
export PATH
exec /bin/sh "$@"
