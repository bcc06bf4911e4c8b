"""The audit: what SAEs miss, decomposed, controlled and explained (specs: Engels et al. 2024).

x activation, x̂ reconstruction, e = x − x̂ error, ℓ its linear part (OLS of e on x, with bias),
u = e − ℓ its nonlinear part. Documents are split into three folds: *fit* (the linear maps),
*second* (whatever is fitted to ℓ and u themselves) and *test* (every number that is reported).
Each token goes through an SAE once. Shapes: N tokens, D model width, V targets, R documents.
"""
