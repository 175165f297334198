class ModuleWatch:
    def edited_modules(self):
        return []
