"""What is asked of models and data besides one verification.

Each study leaves one folder of results, as a verification does.
"""
