"""The metrics of explanations."""

from saeworks.results.metric import Metric

F1 = "program_f1"
TOKEN_F1 = "program_token_f1"
CONTEXT = "program_context_f1"
SHUFFLED_F1 = "program_shuffled_f1"
BALANCED = "program_balanced"
AUROC = "program_auroc"
PROGRAM_DETECTION = "program_detection"
PROGRAM_FUZZING = "program_fuzzing"
EXPLAINED_LATENTS = "explained_latents"
RARE_SHARE = "rare_share"
MODEL_DETECTION = "model_detection"
MODEL_FUZZING = "model_fuzzing"
MODEL_LATENTS = "model_latents"
DIFFERENCE = "model_minus_program"
CORRELATION = "model_program_correlation"
UNREADABLE = "model_unreadable"

_HELD_OUT = (
    "mean over the latents that were drawn, on tokens of documents that the programs were not "
    "fitted on"
)
METRICS = {
    F1: Metric("Program F1", f"2·TP / (predicted + fired), {_HELD_OUT}.", better="higher"),
    TOKEN_F1: Metric(
        "F1, token alone",
        "The same of programs that may ask for the token alone, in one rule.",
        better="higher",
    ),
    CONTEXT: Metric(
        "F1 by context",
        "Program F1 − F1, token alone: what left context, place and concepts add.",
    ),
    SHUFFLED_F1: Metric(
        "F1, shuffled",
        "The same of another latent's program: what is reached without knowing the latent.",
    ),
    BALANCED: Metric(
        "Program bal. acc.",
        "Balanced accuracy, ½ (share of firing tokens that are predicted + share of the others "
        f"that are not); ½ by chance; {_HELD_OUT}.",
        better="higher",
    ),
    AUROC: Metric(
        "Program AUROC",
        "The chance that a token on which the latent fires is in a rule that fires more often than "
        f"that of a token on which it does not, ties by half; {_HELD_OUT}.",
        better="higher",
    ),
    PROGRAM_DETECTION: Metric(
        "Program detection",
        "Balanced accuracy of “does it fire in this stretch of text?” over as many stretches where "
        "the latent fires as stretches where it does not.",
        better="higher",
    ),
    PROGRAM_FUZZING: Metric(
        "Program fuzzing",
        "Balanced accuracy of “are these the tokens on which it fires?” over stretches where it "
        "fires, half of them marked at other tokens.",
        better="higher",
    ),
    EXPLAINED_LATENTS: Metric("Explained", "Latents that were explained.", "latents"),
    RARE_SHARE: Metric(
        "Too rare",
        "Share of the latents that fire, but on too few tokens to be explained: nothing is said "
        "of them.",
        better="lower",
    ),
}
MODEL_METRICS = {
    MODEL_DETECTION: Metric(
        "Model detection",
        "As program detection, of a language model that knows an explanation of the latent and "
        "the text alone; over contexts with a readable answer.",
        better="higher",
    ),
    MODEL_FUZZING: Metric(
        "Model fuzzing", "As program fuzzing, of the language model.", better="higher"
    ),
    DIFFERENCE: Metric(
        "Model − program",
        "Detection by the language model − detection by the program, on the same contexts of the "
        "latents that have both.",
    ),
    CORRELATION: Metric(
        "Correlation",
        "Pearson's, over latents, of detection by program and by language model.",
    ),
    MODEL_LATENTS: Metric(
        "By model", "Latents that the language model explained and judged.", "latents"
    ),
    UNREADABLE: Metric(
        "Unreadable",
        "Share of the contexts whose answer by the language model could not be read; they are left "
        "out.",
        better="lower",
    ),
}
