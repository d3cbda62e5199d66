// Only checked: a program of CommonJS finds declarations of its own format.

import required = require("comet-push");

export = required;
